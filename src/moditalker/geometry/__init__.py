"""The 68 landmarks as geometry: points, alignment to the crop, head pose, pixels through matrices."""
