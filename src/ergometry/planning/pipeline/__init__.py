"""Pipelines: the frequency of every operation of a pipeline-parallel iteration, and what the iteration then costs."""

from ergometry.planning.pipeline.dag import Dag, Operation, Point, gpipe, interleaved, one_forward_one_backward
from ergometry.planning.pipeline.frontier import Frontier, PipelinePlanner, Plan
from ergometry.planning.pipeline.profile import Profile, read_profile

__all__ = [
    "Dag",
    "Frontier",
    "Operation",
    "PipelinePlanner",
    "Plan",
    "Point",
    "Profile",
    "gpipe",
    "interleaved",
    "one_forward_one_backward",
    "read_profile",
]
