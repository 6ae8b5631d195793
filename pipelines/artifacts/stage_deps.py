"""The code that the stages of dvc.yaml depend on; `python -m pipelines.artifacts.stage_deps` writes it there."""

from __future__ import annotations

import io
from pathlib import Path, PurePosixPath

from pipelines.cli.verbs import STAGES, Verb
from pipelines.tracking.source_files import LEARNING, PACKAGES, ROOT, SHIPPED, source_files
from seqgen.core.files import write_bytes

# What a stage depends on beside what its verb imports: for `train` all that the code digest covers, so that what a
# retraining calls a change of the code is one that DVC trains for.
_MORE = {"train": LEARNING, "register": SHIPPED}
# What it does not: how a verb is called and shown, and which weights the registry has to start from (no file of ours).
_WITHOUT = ("pipelines.cli", "pipelines.registry.warm_start")


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
    from ruamel.yaml import YAML

    yaml = YAML()
    yaml.indent(mapping=2, sequence=4, offset=2)
    yaml.preserve_quotes, yaml.width = True, 1000
    tree = yaml.load(text)
    for stage in STAGES:
        deps = tree["stages"][stage.name]["deps"]
        deps[:] = [*(dep for dep in deps if dep.partition("/")[0] not in PACKAGES), *stage_deps(stage)]
    result = io.StringIO()
    yaml.dump(tree, result)
    return result.getvalue()


if __name__ == "__main__":
    path = Path("dvc.yaml")
    write_bytes(path, with_stage_deps(path.read_text()).encode())
