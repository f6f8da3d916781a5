"""Virtual scans with known truth: depth cameras and LiDARs over a mesh, a room or a street."""

from streamdgp.simulate._scan import ScanSummary, simulate_scan
from streamdgp.simulate._sensors import DepthSensor, LidarSensor
from streamdgp.simulate._worlds import make_room, make_street

__all__ = ["DepthSensor", "LidarSensor", "ScanSummary", "make_room", "make_street", "simulate_scan"]
