"""sousvit: automated compression search for Vision Transformers."""

__version__ = "0.1.0"
