"""The face of each frame, and whose it is."""

from moditalker.features.face.tracker import FaceTracker as FaceTracker
