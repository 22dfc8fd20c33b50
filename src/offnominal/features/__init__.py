"""Features: images to patches with a frozen backbone, on torch or OpenVINO."""

from offnominal.features.backbones import EMBEDDED, Backbone, load_backbone
from offnominal.features.extractor import PatchExtractor, align, reduce_channels
from offnominal.features.local_maps import local_mean
from offnominal.features.members import MemberName, parse_members
from offnominal.features.runtime import Runtime, choose_device, choose_runtime, make_runtime
from offnominal.features.standardise import ChannelMoments, ChannelStandard, channel_standard

__all__ = [
    "EMBEDDED",
    "Backbone",
    "ChannelMoments",
    "ChannelStandard",
    "MemberName",
    "PatchExtractor",
    "Runtime",
    "align",
    "channel_standard",
    "choose_device",
    "choose_runtime",
    "load_backbone",
    "local_mean",
    "make_runtime",
    "parse_members",
    "reduce_channels",
]
