"""The code that the stages of dvc.yaml depend on; `python -m pipelines.artifacts.stage_deps` writes it there.

And the files that a project of `seqgen quickstart` begins with, which are this project's own.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from pipelines.cli.verbs import STAGES, Verb
from pipelines.quickstart import FILES, PROJECT
from pipelines.recipes import OWN
from pipelines.tracking.source_files import LEARNING, PACKAGES, ROOT, SHIPPED, source_files
from seqgen.core.files import write_bytes

# What a stage depends on beside what its verb imports: for `train` all that the code digest covers, so that what a
# retraining calls a change of the code is one that DVC trains for.
_MORE = {"train": LEARNING, "register": SHIPPED}
# What it does not: how a verb is called and shown, and which weights the registry has to start from (no file of ours).
_WITHOUT = ("pipelines.cli", "pipelines.registry.warm_start")
_OF_PROJECT = """\
# The line, from raw files to the registry, for every recipe that params.yaml names. Each stage is one verb.
# Another version of seqgen is no change that DVC sees: `dvc repro -f` after an upgrade.
"""


def stage_files(stage: Verb) -> set[str]:
    """The source files that decide what a stage makes."""
    return set(source_files(stage.module, *_MORE.get(stage.name, ()), without=_WITHOUT).files)


def stage_deps(stage: Verb) -> list[str]:
    """`stage_files` as DVC is told them: a folder that holds nothing else stands for its files."""
    files = stage_files(stage)
    folders = {str(folder) for name in files for folder in PurePosixPath(name).parents} - {"."}
    whole = {folder for folder in folders if _files_in(folder) <= files}
    return sorted(name for name in files | whole if str(PurePosixPath(name).parent) not in whole)


def _files_in(folder: str) -> set[str]:
    paths = (path for path in (ROOT / folder).rglob("*") if path.is_file())
    return {path.relative_to(ROOT).as_posix() for path in paths if path.parent.name != "__pycache__"}


def with_stage_deps(text: str) -> str:
    """The text of a dvc.yaml with the code that its stages depend on; all else in it stays as it is."""
    return _with_code(text, stage_deps)


def for_project(text: str) -> str:
    """The text of dvc.yaml for a project whose code is installed: its own recipes, no source file of ours."""
    text = _with_code(text, lambda stage: []).replace("pipelines/recipes/", f"{OWN}/")
    return _OF_PROJECT + text.partition("\n#")[2].partition("\n")[2]


def _with_code(text: str, code: Callable[[Verb], list[str]]) -> str:
    from ruamel.yaml import YAML

    yaml = YAML()
    yaml.indent(mapping=2, sequence=4, offset=2)
    yaml.preserve_quotes, yaml.width = True, 1000
    tree = yaml.load(text)
    for stage in STAGES:
        found = tree["stages"][stage.name]
        own = [dep for dep in found["deps"] if dep.partition("/")[0] not in PACKAGES]
        found["deps"][:] = [*own, *code(stage)]
        if not found["deps"]:
            del found["deps"]
    result = io.StringIO()
    yaml.dump(tree, result)
    return result.getvalue()


def project_files(root: Path = ROOT) -> dict[Path, bytes]:
    """What lies in pipelines/project, by path: files of the project at `root`."""
    texts = {name: (root / target).read_bytes() for name, target in FILES.items()}
    texts["dvc.yaml"] = for_project(texts["dvc.yaml"].decode()).encode()
    return {PROJECT / name: content for name, content in texts.items()}


if __name__ == "__main__":
    path = ROOT / "dvc.yaml"
    write_bytes(path, with_stage_deps(path.read_text()).encode())
    for path, content in project_files().items():
        write_bytes(path, content)
