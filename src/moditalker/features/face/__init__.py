"""Finds and follows the face of each frame, and its identity."""

from moditalker.features.face.tracker import FaceTracker as FaceTracker
