"""The versions that pyproject.toml allows are those that were tested."""

import tomllib
from pathlib import Path

import forks
import torch
from packaging.requirements import Requirement
from packaging.version import Version

from foliogpt.modeling import FolioForCausalLM, preset_config
from foliogpt.modeling.modeling_folio import TESTED

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PINS = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
REQUIREMENTS = [
    Requirement(line)
    for group in (PROJECT["dependencies"], *PROJECT["optional-dependencies"].values())
    for line in group
    if not line.startswith("foliogpt[")
]


def test_the_range_of_transformers_is_what_the_model_code_says_it_was_tested_with():
    (allowed,) = [requirement.specifier for requirement in REQUIREMENTS if requirement.name == "transformers"]
    (major, first), (_, last) = TESTED
    assert {str(bound) for bound in allowed} == {f">={major}.{first}", f"<{major}.{last + 1}"}


def test_every_dependency_has_a_floor_and_a_pin_that_it_allows():
    names = {name.replace("_", "-").lower(): version for name, version in PINS.items()}
    for requirement in REQUIREMENTS:
        assert any(bound.operator == ">=" for bound in requirement.specifier), requirement
        assert requirement.specifier.contains(Version(names[requirement.name.replace("_", "-").lower()])), requirement


STRANGER = """
import sys
sys.modules["foliogpt"] = None
import transformers
transformers.__version__ = sys.argv[2]
model = transformers.AutoModelForCausalLM.from_pretrained(sys.argv[1], trust_remote_code=True)
"""


def test_a_checkpoint_says_once_when_it_meets_a_transformers_it_was_not_tested_with(tmp_path):
    torch.manual_seed(0)
    FolioForCausalLM(preset_config("folio", "nano", num_hidden_layers=1)).save_pretrained(tmp_path)
    version = "5.31.0.dev0"
    done = forks.run([STRANGER, str(tmp_path), version], stranger=True)
    assert done.returncode == 0, done.stderr
    line = f"tested with transformers 5.23 to 5.24, and this is {version}: if results look wrong"
    assert done.stderr.count(line) == 1, done.stderr
