"""What a job uploads: all of the code, and no data, caches or secrets."""

from __future__ import annotations

import shutil
from pathlib import Path

from pipelines.cluster.upload import upload

ROOT = Path(__file__).resolve().parents[3]
CODE = ["pipelines/train.py", "pipelines/recipes/own.yaml", "seqgen/data/batches.py", "data_prep/fetch.py"]
PRIVATE = [
    ".venv/lib/python3.11/site-packages/torch/__init__.py", ".git/config", ".dvc/cache/files/md5/0a/b1",
    ".dvc/config.local", ".dvc/tmp/lock", ".seqgen/ray/run/weights.pt", "artifacts/own/shards/t.tar",
    "artifacts/own/raw/omniglot.zip", "mlflow.db", "mlflow.db-wal", "mlartifacts/1/model/weights.safetensors",
    "data/train-images-idx3-ubyte", "benchmarks/out.npy", "pipelines/__pycache__/train.cpython-311.pyc",
    ".pytest_cache/v/nodeids", ".env", ".env.production", "infra/server.env", "credentials", ".aws/config",
    "infra/credentials.json", "infra/tls/server.key", "infra/tls/server.pem", ".netrc", "id_rsa",
]  # fmt: skip


def test_a_job_uploads_the_code_and_no_data_caches_or_secrets(tmp_path: Path):
    for name in (".rayignore", ".gitignore"):
        shutil.copy(ROOT / name, tmp_path)
    for name in CODE + PRIVATE:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("canary")
    uploaded = upload(tmp_path)
    assert set(uploaded) == {*CODE, ".rayignore", ".gitignore"}
    assert uploaded[CODE[0]] == len("canary")


def test_this_project_uploads_all_its_code_and_little_else():
    uploaded = upload(ROOT)
    code = {
        str(path.relative_to(ROOT))
        for package in ("data_prep", "seqgen", "pipelines")
        for path in (ROOT / package).rglob("*")
        if path.suffix in (".py", ".yaml", ".html")
    }
    assert code <= set(uploaded)
    assert sum(uploaded.values()) < 20_000_000
