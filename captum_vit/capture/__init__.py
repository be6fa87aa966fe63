"""The only code that touches a running model; it leaves every model as it found it."""

from .accounts import account
from .cell_run import CellRun
from .conserving import attn_rules, cp_rules, libra_rules, rules_named
from .examine import placed_layout
from .given import Given
from .inputs import Inputs
from .needs import (
    ATTENTION,
    GIVEN,
    GIVEN_GRADIENTS,
    GRADIENTS,
    HELD_GRADIENTS,
    LAYER_GRADIENTS,
    MEAN_LAYER_GRADIENTS,
    OUTPUT_WEIGHTS,
    OUTPUTS,
    PATH_GRADIENTS,
    PIXEL_GRADIENTS,
    READ_ATTENTION,
    TOKEN_GRADIENTS,
    TOKENS,
    VALUES,
    Need,
    Reduction,
    UnderRules,
)
from .plain import Plain
from .readout import measure_readout, readout_of
from .rules import Rules
from .run import Run
from .sharing import sharing_rules
from .trial_sizes import sizes_of
from .unknown import Found
from .untouched import untouched

__all__ = [
    "ATTENTION",
    "GIVEN",
    "GIVEN_GRADIENTS",
    "GRADIENTS",
    "HELD_GRADIENTS",
    "LAYER_GRADIENTS",
    "MEAN_LAYER_GRADIENTS",
    "OUTPUTS",
    "OUTPUT_WEIGHTS",
    "PATH_GRADIENTS",
    "PIXEL_GRADIENTS",
    "READ_ATTENTION",
    "TOKENS",
    "TOKEN_GRADIENTS",
    "VALUES",
    "CellRun",
    "Found",
    "Given",
    "Inputs",
    "Need",
    "Plain",
    "Reduction",
    "Rules",
    "Run",
    "UnderRules",
    "account",
    "attn_rules",
    "cp_rules",
    "libra_rules",
    "measure_readout",
    "placed_layout",
    "readout_of",
    "rules_named",
    "sharing_rules",
    "sizes_of",
    "untouched",
]
