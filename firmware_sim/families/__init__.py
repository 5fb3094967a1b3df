"""Simulated wearables of other makers, each with an encoder of its own, by the name of their profile."""

from firmware_sim.families.arduino import ArduinoNano33
from firmware_sim.families.movesense import Movesense
from firmware_sim.families.polar import PolarVeritySense
from firmware_sim.families.streaming import StreamingDevice
from firmware_sim.families.thingy52 import Thingy52
from firmware_sim.families.witmotion import WitMotion
from firmware_sim.families.xsens_dot import XsensDot

FAMILIES: dict[str, type[StreamingDevice]] = {
    "movesense": Movesense,
    "polar-verity-sense": PolarVeritySense,
    "witmotion-bwt901ble": WitMotion,
    "thingy52": Thingy52,
    "xsens-dot": XsensDot,
    "arduino-nano33-ble-sense": ArduinoNano33,
}
