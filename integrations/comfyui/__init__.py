"""ComfyUI finds the node here: put this folder into custom_nodes/, and moditalker into ComfyUI's Python."""

from .nodes import LipSync

NODE_CLASS_MAPPINGS = {"MoDiTalkerLipSync": LipSync}
NODE_DISPLAY_NAME_MAPPINGS = {"MoDiTalkerLipSync": "MoDiTalker: a face says the audio"}
__all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS"]
