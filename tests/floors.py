"""Print every version floor of pyproject.toml as a pip constraint: `make test-oldest` installs exactly these."""

import tomllib
from pathlib import Path

from packaging.requirements import Requirement


def floors() -> dict[str, str]:
    """The lowest version that pyproject.toml allows of each package that it names."""
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    requirements = [Requirement(line) for group in groups for line in group]
    return {
        requirement.name: bound.version
        for requirement in requirements
        for bound in requirement.specifier
        if bound.operator == ">="
    }


if __name__ == "__main__":
    print(*(f"{name}=={version}" for name, version in floors().items()), sep="\n")
