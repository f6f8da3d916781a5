"""Recorded scans as a list of frames: one reader per folder format, found by itself.

Light (numpy and pillow): the robot's client reads with this what it streams.
"""

from streamdgp.datasets._dataset import Dataset
from streamdgp.datasets._open import FORMATS, open_dataset
from streamdgp.datasets._options import ReaderOptions

__all__ = ["FORMATS", "Dataset", "ReaderOptions", "open_dataset"]
