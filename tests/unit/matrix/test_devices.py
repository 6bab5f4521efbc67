"""Variables of simulated devices come from the simulator's command, or an error has its words."""

from __future__ import annotations

import pytest

from matrix.devices import simulated
from matrix.errors import DeviceError


def test_variables_name_chip_and_version_and_extend_float32_only() -> None:
    exact = simulated("Ascend910B1", "9.1.0", "float32", devices=3)
    assert (exact["CANNSIM_CHIP"], exact["CANNSIM_CANN"]) == ("Ascend910B1", "9.1.0")
    assert (exact["CANNSIM_DEVICES"], exact["CANNSIM_EXTENSIONS"]) == ("3", "float32-attention")
    assert "CANNSIM_EXTENSIONS" not in simulated("Ascend910B1", "9.1.0", "bfloat16")


def test_an_unknown_chip_is_told_in_the_commands_words() -> None:
    with pytest.raises(DeviceError, match=r"unknown chip 'Ascend910B11'") as caught:
        simulated("Ascend910B11", "9.1.0", "bfloat16")
    assert caught.value.exit_code == 3
