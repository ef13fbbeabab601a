"""Flags of the training data: which rows, and how they are loaded. Does nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from swift.flags import flag


@dataclass(frozen=True)
class DataFlags:
    """Data"""

    dataset: tuple[str, ...] = flag((), alias=("custom_train_dataset_path",), commas=True)
    """Training sets: files, registered names or hub ids; name#500 takes 500 rows"""
    val_dataset: tuple[str, ...] = flag((), alias=("custom_val_dataset_path",), commas=True)
    """Validation sets; if given, no rows are split off the training sets"""
    dataset_test_ratio: float = flag(0.01, alias=("split_dataset_ratio",))
    """Share of the rows split off for validation"""
    train_dataset_sample: int = -1
    """Number of training rows to use; -1 uses all"""
    val_dataset_sample: int | None = None
    """Number of validation rows to use; none uses all"""
    train_dataset_mix_ratio: float = 0.0
    """General rows to mix in, as a multiple of the training rows"""
    train_dataset_mix_ds: tuple[str, ...] = flag(("ms-bench",), commas=True)
    """Data sets of the general rows"""
    self_cognition_sample: int = 0
    """Number of self-cognition rows to add, in which the model states its name and author"""
    model_name: tuple[str, ...] = ()
    """Name of the model in the self-cognition rows: Chinese, then English, or one for both"""
    model_author: tuple[str, ...] = ()
    """Author of the model in the self-cognition rows: Chinese, then English, or one for both"""
    check_dataset_strategy: Literal["none", "discard", "error", "warning"] = "warning"
    """What to do with a bad row: keep it, drop it, stop, or name it and drop it"""
    columns: dict[str, str] = flag({})
    """Renamed columns, as JSON: {"question": "query"}"""
    dataset_seed: int = flag(42, alias=("data_seed",))
    """Seed of splitting, sampling and mixing"""


@dataclass(frozen=True)
class LoaderFlags:
    """Data loading"""

    preprocess_num_proc: int | None = flag(None, alias=("dataset_num_proc",))
    """Processes that tokenise rows; none uses one per core for large data sets"""
    dataloader_num_workers: int = 0
    """Data loader processes; 0 collates batches in the training process"""
    streaming: bool = False
    """Read, tokenise and shuffle rows while training, for data larger than memory; needs --max_steps"""
    shuffle_buffer_size: int = 1000
    """streaming: size of the shuffle buffer in rows"""
    token_cache: str | None = flag(None, alias=("cached_dataset",), bare="true")
    """Folder that caches tokenised rows for the next start of the same run; true uses ~/.cache/swift/tokens"""
    lazy_tokenize: bool = False
    """Tokenise rows during training instead of in advance"""
    group_by_prefix: bool = False
    """Rows that begin alike, such as those with the same tools, come into the same step, half a step of them at most.
    On a CPU, LoRA computes what rows of a step have in common once"""
