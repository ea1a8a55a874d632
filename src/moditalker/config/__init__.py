"""Every setting of the project (`schema`) and its reader (`reading`)."""

from __future__ import annotations

from moditalker.config.reading import PRESETS as PRESETS
from moditalker.config.reading import dump as dump
from moditalker.config.reading import from_dict as from_dict
from moditalker.config.reading import load as load
from moditalker.config.reading import override as override
from moditalker.config.reading import to_dict as to_dict
from moditalker.config.schema import GROUPS as GROUPS
from moditalker.config.schema import SMALL_NETWORK as SMALL_NETWORK
from moditalker.config.schema import AtomConfig as AtomConfig
from moditalker.config.schema import AtomLossConfig as AtomLossConfig
from moditalker.config.schema import AugmentationConfig as AugmentationConfig
from moditalker.config.schema import AutoencoderConfig as AutoencoderConfig
from moditalker.config.schema import ComposeConfig as ComposeConfig
from moditalker.config.schema import Config as Config
from moditalker.config.schema import Count as Count
from moditalker.config.schema import CountOrZero as CountOrZero
from moditalker.config.schema import CropConfig as CropConfig
from moditalker.config.schema import DiffusionConfig as DiffusionConfig
from moditalker.config.schema import DistillationConfig as DistillationConfig
from moditalker.config.schema import MToVConfig as MToVConfig
from moditalker.config.schema import MToVLossConfig as MToVLossConfig
from moditalker.config.schema import NotNegative as NotNegative
from moditalker.config.schema import PixelLossConfig as PixelLossConfig
from moditalker.config.schema import Positive as Positive
from moditalker.config.schema import Range as Range
from moditalker.config.schema import RecordingsConfig as RecordingsConfig
from moditalker.config.schema import RulesConfig as RulesConfig
from moditalker.config.schema import Seed as Seed
from moditalker.config.schema import Share as Share
from moditalker.config.schema import SpeechConfig as SpeechConfig
from moditalker.config.schema import SyncExpertConfig as SyncExpertConfig
from moditalker.config.schema import TrainingConfig as TrainingConfig
from moditalker.config.schema import check as check
