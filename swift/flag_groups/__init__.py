"""Flags that several commands share, a frozen dataclass for each subject. Knows no command and does nothing."""

from swift.flag_groups.data import DataFlags, LoaderFlags
from swift.flag_groups.inference import BackendFlags, GenerationFlags, VllmFlags, check_engine
from swift.flag_groups.model import ModelFlags, QuantFlags
from swift.flag_groups.practice import RoundFlags
from swift.flag_groups.preferences import PreferenceFlags
from swift.flag_groups.synth import SynthFlags, WriterFlags
from swift.flag_groups.template import TemplateFlags
from swift.flag_groups.tools import ToolFlags
from swift.flag_groups.train import (
    EvaluationFlags,
    KernelFlags,
    LoggingFlags,
    OptimizerFlags,
    ParallelFlags,
    SavingFlags,
    TrainFlags,
)
from swift.flag_groups.tuner import GaloreFlags, LoraFlags, SftType, TrainableFlags, TunerFlags

__all__ = [
    "BackendFlags",
    "DataFlags",
    "EvaluationFlags",
    "GaloreFlags",
    "GenerationFlags",
    "KernelFlags",
    "LoaderFlags",
    "LoggingFlags",
    "LoraFlags",
    "ModelFlags",
    "OptimizerFlags",
    "ParallelFlags",
    "PreferenceFlags",
    "QuantFlags",
    "RoundFlags",
    "SavingFlags",
    "SftType",
    "SynthFlags",
    "TemplateFlags",
    "ToolFlags",
    "TrainFlags",
    "TrainableFlags",
    "TunerFlags",
    "VllmFlags",
    "WriterFlags",
    "check_engine",
]
