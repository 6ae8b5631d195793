"""Critics and what they say: against plain loops over every task, closed forms, and on characters of our own."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from data_prep.shard_files import encode_sample, write_shard
from pipelines.artifacts.trained_model import load_trained_model
from pipelines.evaluate.recognise import SAMPLES, measure_recognition
from pipelines.evaluate.recogniser import train_critics
from pipelines.recipes import load_recipe
from seqgen.core.errors import BadInput, OperationalError
from seqgen.data.batches import generator_at
from seqgen.data.images import ImageSet
from seqgen.data.manifest import Manifest, SourceFile, SplitIndex
from seqgen.data.settings import DataConfig
from seqgen.drawing.plane import PEOPLE, PUBLISHED, Judged, apart, plane
from seqgen.evaluation import recognition
from seqgen.evaluation.errors import clustered
from seqgen.evaluation.recognition import Conv4, Embedding, Plan, Recogniser, measures, training
from seqgen.models import SequentialModel, build, save_model
from seqgen.settings import ModelConfig
from tests.finished_run import tiny_recipe

PLAN = Plan(episodes=6, ways=5, drawings=3, contrasts=4, batch=16)


def points(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def crosses(count: int, drawings: int = 6, size: int = 28, seed: int = 0) -> torch.Tensor:
    """Characters uint8 [count,drawings,size,size]: three lines each, every drawing moved by up to two pixels."""
    rng = np.random.default_rng(seed)
    images = np.zeros((count, drawings, size, size), np.uint8)
    for character in images:
        rows, columns = rng.integers(4, size - 5, 2), rng.integers(4, size - 5, 2)
        for drawing in character:
            down, along = rng.integers(-2, 3, 2)
            drawing[rows[0] + down, 4 + along : size - 4 + along] = 1
            drawing[4 + down : rows[1] + 3 + down, columns[0] + along] = 1
            drawing[size // 2 + down : size - 4 + down, columns[1] + along] = 1
    return torch.from_numpy(images)


def image_set(characters: torch.Tensor) -> ImageSet:
    """`characters` shuffled, so that a character's drawings lie anywhere; two alphabets in turn."""
    classes, drawings = characters.shape[:2]
    order = torch.randperm(classes * drawings, generator=torch.Generator().manual_seed(1))
    concepts = torch.arange(classes).repeat_interleave(drawings)[order]
    names = tuple(f"A/{number}" for number in range(classes))
    return ImageSet(characters.flatten(0, 1)[order], 2, concepts, concepts % 2, names)


def tiny(size: int = 28) -> SequentialModel:
    torch.manual_seed(1)
    config = ModelConfig(
        steps=2,
        latents=3,
        hidden=6,
        attention="full",
        canvas="additive",
        posterior_hidden=5,
        conditional=True,
    )
    model = build(config, size, size, 0.3).eval()
    with torch.no_grad():  # far from its start, where z hardly matters
        for parameter in model.parameters():
            parameter.mul_(4)
    return model


@pytest.mark.parametrize("ways", [2, 4, 7])
def test_recognition_is_the_share_of_all_tasks(ways):
    support, queries = points(7, 3), points(7, 5, 3, seed=1)
    found = recognition.recognition_rates(support, queries, ways)
    for own, query in itertools.product(range(7), range(5)):
        right = []
        for others in itertools.combinations([c for c in range(7) if c != own], ways - 1):
            distances = {c: math.dist(queries[own, query], support[c]) for c in (own, *others)}
            right.append(min(distances, key=distances.__getitem__) == own)
        assert found[own, query].item() == pytest.approx(sum(right) / len(right), abs=1e-12)


def test_a_tie_is_not_recognised_and_a_task_needs_enough_characters():
    same = torch.ones(4, 2)
    assert recognition.recognition_rates(same, same.unsqueeze(1), 2).tolist() == [[0.0]] * 4
    with pytest.raises(BadInput, match="20-way recognition needs at least 20 characters, not 4"):
        recognition.recognition_rates(same, same.unsqueeze(1))


def test_every_drawing_is_once_the_support():
    features = points(6, 4, 3)
    expected = torch.stack(
        [
            recognition.recognition_rates(features[:, one], features[:, [other]], 3)[:, 0]
            for one, other in itertools.permutations(range(4), 2)
        ],
        1,
    )
    torch.testing.assert_close(recognition.one_shot_rates(features, 3), expected)


def test_originality_is_the_mean_standard_deviation_of_the_features():
    features = points(3, 5, 2)
    expected = [np.mean([np.std(one[:, f].numpy(), ddof=1) for f in range(2)]) for one in features]
    assert recognition.originality(features).tolist() == pytest.approx(expected, rel=1e-6)
    assert recognition.originality(features[:, :1].expand(-1, 5, -1)).tolist() == [0, 0, 0]


def test_the_loss_is_the_mean_over_all_one_shot_episodes():
    ways, drawings, sharpness = 4, 3, 0.3
    features = points(ways, drawings, 5)
    losses = []
    for shot, query in itertools.permutations(range(drawings), 2):
        for own in range(ways):
            logits = [
                -sharpness * math.dist(features[own, query], features[c, shot]) ** 2 for c in range(ways)
            ]
            losses.append(math.log(sum(map(math.exp, logits))) - logits[own])
    assert training.one_shot_loss(features, sharpness).item() == pytest.approx(np.mean(losses), rel=1e-4)


def test_the_contrastive_loss_is_that_of_a_plain_loop():
    views = torch.nn.functional.normalize(points(6, 4), dim=1)
    losses = []
    for i in range(6):
        scores = {j: (views[i] @ views[j]).item() / 0.5 for j in range(6) if j != i}
        losses.append(math.log(sum(map(math.exp, scores.values()))) - scores[(i + 3) % 6])
    assert training.contrastive_loss(views, 0.5).item() == pytest.approx(np.mean(losses), rel=1e-5)


def test_maps_that_turn_by_right_angles_move_no_ink_and_the_share_is_kept():
    images = crosses(4)[:, 0]
    maps = training.random_maps(4, torch.Generator().manual_seed(0), share=0.0)
    for quarter in range(4):
        turned = training.warp(images, training._QUARTERS[[quarter] * 4] @ maps)
        assert turned.equal(images.rot90(quarter, (1, 2)).float())
    some = training.random_maps(1000, torch.Generator().manual_seed(0), share=0.3)
    warped = (some != torch.eye(2, 3)).any(2).any(1).float().mean().item()
    assert warped == pytest.approx(0.3, abs=0.05)


def test_the_strongest_map_stays_within_its_bounds():
    linear, shift = training.random_maps(2000, torch.Generator().manual_seed(0)).split([2, 1], 2)
    area = torch.linalg.det(linear)
    assert 1 / 1.33**2 - 1e-4 < area.min() < 0.65
    assert 1.55 < area.max() < 1.33**2 + 1e-4
    assert 0.19 < shift.abs().max() <= 0.2


@pytest.mark.parametrize("size", [28, 52])
def test_the_encoder_sees_any_size_and_pools_before_the_relu_what_it_would_pool_after(size):
    network = Conv4().eval()
    image = crosses(2, 1, size)[:, 0].float()
    expected = image.unsqueeze(1)
    if size == 52:
        expected = torch.nn.functional.adaptive_avg_pool2d(expected, 28)
    for convolution, norm in zip(network.blocks[0::4], network.blocks[1::4], strict=True):
        expected = torch.nn.functional.max_pool2d(norm(convolution(expected)).relu(), 2)
    torch.testing.assert_close(network(image), expected.flatten(1))
    assert network(image).shape == (2, 64)


def test_a_recogniser_is_asked_about_the_image_and_its_four_neighbours():
    network, images = Recogniser(), crosses(3)[:, 0].float()
    assert network.train()(images).equal(network.encoder(images))
    network.eval()
    neighbours = [
        images,
        *(images.roll(by, axis) for by in (-1, 1) for axis in (1, 2)),
    ]  # no ink on the border
    expected = torch.stack([network.encoder(image) for image in neighbours]).mean(0)
    torch.testing.assert_close(network(images), expected)


def test_features_are_the_same_however_many_at_once(monkeypatch):
    drawings, network = crosses(3, 4), Conv4()
    whole = recognition.encode(network, drawings)
    monkeypatch.setattr("seqgen.evaluation.recognition.networks._AT_ONCE", 5)
    torch.testing.assert_close(recognition.encode(network, drawings), whole)
    assert whole.shape == (3, 4, 64)


def test_characters_are_found_wherever_their_drawings_lie():
    drawings = crosses(5, 4)
    found = recognition.by_character(image_set(drawings))
    assert found.alphabets.tolist() == [0, 1, 0, 1, 0]
    for one, other in zip(found.drawings, drawings, strict=True):
        assert sorted(one.flatten(1).tolist()) == sorted(other.flatten(1).tolist())


def test_sets_that_critics_cannot_use_are_refused():
    images = image_set(crosses(5, 4))
    with pytest.raises(BadInput, match=r"equally many drawings.*'A/\d' has 3, another 4"):
        recognition.by_character(images.take(torch.arange(1, 20)))
    with pytest.raises(BadInput, match="3 or more"):
        recognition.by_character(image_set(crosses(5, 2)))
    with pytest.raises(BadInput, match="an episode has 3 drawings of 5 characters, and there are 4"):
        recognition.train_recogniser(crosses(4), PLAN, 0)
    with pytest.raises(BadInput, match="a contrast has 16 drawings"):
        recognition.train_embedding(crosses(2), PLAN, 0)


def test_an_exemplar_is_none_of_the_others_and_depends_on_the_seed():
    numbered = torch.arange(40, dtype=torch.uint8).view(8, 5, 1, 1)
    characters = recognition.Characters(numbered, torch.zeros(8))
    support, others = recognition.random_exemplars(characters, 0)
    together = torch.cat([support.view(8, 1), others.view(8, 4)], 1).sort(1).values
    assert together.equal(numbered.view(8, 5))
    assert len({int(value) % 5 for value in support.flatten()}) > 1
    assert not support.equal(recognition.random_exemplars(characters, 1).support)


def test_a_typical_exemplar_is_nearest_to_the_mean_of_its_character():
    characters = recognition.Characters(torch.arange(40, dtype=torch.uint8).view(8, 5, 1, 1), torch.zeros(8))
    features = points(8, 5, 3)
    support, others = recognition.typical_exemplars(characters, features)
    for number, own in enumerate(features):
        distances = [math.dist(drawing, own.mean(0)) for drawing in own]
        place = distances.index(min(distances))
        assert int(support[number]) == 5 * number + place
        assert others[number].flatten().tolist() == [5 * number + n for n in range(5) if n != place]


def test_a_recogniser_learns_to_tell_characters_that_it_has_not_seen():
    plan = Plan(episodes=40, ways=12, drawings=3)
    seen, unseen = crosses(40, seed=1), crosses(30, seed=2)
    before = recognition.one_shot_rates(recognition.encode(Recogniser(), unseen)).mean().item()
    network = recognition.train_recogniser(seen, plan, 0)
    after = recognition.one_shot_rates(recognition.encode(network, unseen)).mean().item()
    assert after > 0.75
    assert after > before + 0.1


def test_the_embedding_has_the_unit_that_it_says():
    drawings = crosses(10)
    embedding = recognition.train_embedding(drawings, PLAN, 0)
    features = recognition.encode(embedding, drawings).flatten(0, 1)
    alive = features.abs().sum(0) > 0
    torch.testing.assert_close(features.mean(0), torch.zeros(64), atol=1e-4, rtol=0)
    torch.testing.assert_close(features.std(0)[alive], torch.ones(int(alive.sum())))
    lengths = embedding.project(drawings[0].float()).norm(dim=1)
    torch.testing.assert_close(lengths, torch.ones(6))


@pytest.mark.parametrize("train", [recognition.train_recogniser, recognition.train_embedding])
def test_a_training_that_was_killed_goes_on_with_the_same_bits(train, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "_KEEP_EVERY", 2)
    drawings, identity = crosses(10), PLAN.identity("digest", 0)
    torch.manual_seed(3)
    untouched = torch.get_rng_state()
    whole = train(drawings, PLAN, 0).state_dict()
    assert torch.get_rng_state().equal(untouched)

    def stop(steps: int) -> None:
        nonlocal left
        left -= steps
        if left < 0:
            raise KeyboardInterrupt

    left = 2
    with pytest.raises(KeyboardInterrupt):
        train(drawings, PLAN, 0, recognition.keeper(tmp_path, "critic", identity), stop)
    seen: list[int] = []
    kept = recognition.keeper(tmp_path, "critic", identity)
    resumed = train(drawings, PLAN, 0, kept, seen.append).state_dict()
    assert seen[0] == 2  # two of the steps were kept
    assert all(resumed[name].equal(whole[name]) for name in whole)

    seen.clear()
    train(drawings, PLAN, 0, recognition.keeper(tmp_path, "critic", PLAN.identity("other", 0)), seen.append)
    assert seen[0] == 1  # another training's state is not taken up
    kept.path.write_bytes(b"torn")
    with pytest.raises(OperationalError, match="damaged"):
        train(drawings, PLAN, 0, kept)


def test_critics_come_back_from_disk_and_altered_ones_do_not(tmp_path):
    drawings = crosses(6)
    critics = recognition.Critics(
        recognition.train_recogniser(drawings, PLAN, 0),
        recognition.train_embedding(drawings, PLAN, 0),
        {"identity": PLAN.identity("digest", 0)},
    )
    recognition.save_critics(critics, tmp_path)
    found = recognition.load_critics(tmp_path)
    assert found.about["identity"] == critics.about["identity"]
    for part in ("recogniser", "embedding"):
        ours, theirs = getattr(critics, part), getattr(found, part)
        assert recognition.encode(ours, drawings).equal(recognition.encode(theirs, drawings))
    weights = tmp_path / "embedding.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"!")
    with pytest.raises(OperationalError, match=r"embedding\.safetensors: missing or altered"):
        recognition.load_critics(tmp_path)
    with pytest.raises(BadInput, match="no critics"):
        recognition.load_critics(tmp_path / "nowhere")


def test_copies_are_recognised_and_not_original_and_strangers_are_neither_recognised():
    critics = recognition.Critics(Recogniser(), Embedding(), {})
    support = crosses(24, 1)[:, 0]
    copies = recognition.judge(critics, support, support.unsqueeze(1).expand(-1, 4, -1, -1))
    assert copies.recognised.tolist() == pytest.approx([1.0] * 24)
    assert copies.originality.tolist() == [0.0] * 24
    strangers = recognition.judge(critics, support, support.roll(1, 0).unsqueeze(1).expand(-1, 4, -1, -1))
    # Recognised only where the stranger's own character is not in the task: 4 of 23 tasks, or fewer.
    assert strangers.recognised.max() <= 4 / 23 + 1e-9


def test_samples_are_those_of_the_model_given_each_exemplar_alone(monkeypatch):
    monkeypatch.setattr(measures, "CHUNK", 7)
    model, support, seen = tiny(), crosses(4, 1)[:, 0], []
    found = recognition.draw_samples(model, support, 5, seed=3, temperature=0.8, advance=seen.append)
    assert found.shape == (4, 5, 28, 28)
    assert seen == [7, 7, 6]
    flat = found.flatten(0, 1)
    for number, start in enumerate((0, 7, 14)):
        size = seen[number]
        generator = generator_at(torch.device("cpu"), 3, "recognised samples", number)
        noise = 0.8 * model.noise(size, generator)
        for place in range(size):
            context = support[(start + place) // 5].view(1, 1, 28, 28).float()
            with torch.no_grad():
                mean = model.sample(noise[:, place : place + 1], context)[0, 0]
            clear = (mean - 0.5).abs() > 1e-5
            assert flat[start + place][clear].equal((mean > 0.5).to(torch.uint8)[clear])
    cold = recognition.draw_samples(model, support, 5, seed=3, temperature=0.0)
    assert cold.equal(cold[:, :1].expand_as(cold))
    assert not found.equal(found[:, :1].expand_as(found))


def test_errors_are_by_character_and_by_alphabet():
    values, alphabets = points(40).double(), torch.arange(40) // 10
    found = clustered(values, None, alphabets)
    assert found.value == pytest.approx(values.mean().item())
    assert found.se == pytest.approx(values.std().item() / math.sqrt(40))
    means = values.view(4, 10).mean(1)
    assert found.se_by_alphabet == pytest.approx(means.std().item() / math.sqrt(4))
    assert clustered(values, None, torch.zeros(40)).se_by_alphabet is None


def test_the_plane_shows_everyone_and_is_the_same_each_time():
    judged = [
        Judged(PEOPLE, 97.1, 0.62, 0.4, 0.01),
        Judged("temperature 1", 55.0, 0.7, 1.0, 0.01),
        Judged("temperature 0.5", 80.0, 0.4, 1.0, 0.01),
        Judged("temperature 1", 60.0, 0.65, 1.0, 0.01, typical=True),
    ]
    drawn = plane(judged)
    assert drawn == plane(judged)
    assert drawn.startswith(b"<?xml")
    words = [
        f"<!-- {text} -->".encode() for text in ("people", "temperature 1", "temperature 0.5", "VAE-NS 85")
    ]
    assert [drawn.count(word) for word in words] == [1, 2, 1, 1]
    heights = apart([level for _, level in PUBLISHED], 2.0)
    assert heights[0] == 97.5
    assert all(upper - lower >= 2.0 - 1e-9 for upper, lower in itertools.pairwise(heights))
    assert heights[-1] == 75.0


def write_set(directory: Path, seed: int = 0) -> None:
    """Characters of our own as a sharded set: enough of them for tasks of 20, in alphabets of 11."""
    index = {}
    for number, split in enumerate(("train", "valid", "test")):
        samples, concepts = [], []
        for character, drawings in enumerate(crosses(22, 4, seed=seed + number)):
            alphabet = f"{split}{character // 11}"
            concept = f"{alphabet}/character{character % 11 + 1:02d}"
            meta = {"dataset": "test", "alphabet": alphabet, "character": concept.split("/")[1]}
            meta |= {"concept": concept, "drawers": [1, 2, 3, 4], "labels": None}
            samples.append(encode_sample(f"{character:06d}", drawings.numpy(), 2, meta))
            concepts.append(concept)
        directory.mkdir(parents=True, exist_ok=True)
        shard = write_shard(directory / f"{split}-000000.tar", samples)
        index[split] = SplitIndex(images=shard.images, concepts=tuple(concepts), shards=(shard,))
    data = DataConfig(source="omniglot-strokes", size=28, split="30-20", binarise="static")
    Manifest(
        title="test set",
        data=data,
        height=28,
        width=28,
        levels=2,
        mean=0.1,
        sources=(SourceFile(name="none", sha256="0" * 64),),
        splits=index,
    ).write(directory)


def test_the_verbs_train_critics_once_and_measure_a_model_with_them(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SEQGEN_ARTIFACTS", str(tmp_path / "artifacts"))
    monkeypatch.setenv("SEQGEN_STATE", str(tmp_path / "state"))
    path = tiny_recipe(tmp_path, conditional=True)
    recipe, root = load_recipe(str(path)), tmp_path / "artifacts" / "tiny"
    write_set(root / "shards")
    manifest = json.loads((root / "shards" / "manifest.json").read_text())
    torch.manual_seed(0)
    save_model(build(recipe.model, 28, 28, 0.1), root / "train" / "model")
    (root / "train" / "recipe.json").write_text(recipe.model_dump_json(by_alias=True))
    (root / "train" / "run.json").write_text(json.dumps({"manifest_digest": manifest["digest"]}))
    trained = load_trained_model(str(path))

    with pytest.raises(BadInput, match=r"no critics here; run `python -m pipelines\.evaluate\.recogniser"):
        measure_recognition(trained, [1.0])
    directory = train_critics(recipe, PLAN)
    description = json.loads((directory / "critics.json").read_text())
    assert description["identity"]["data"] == manifest["digest"]
    assert 0 < description["accuracy"]["test"]["value"] <= 100
    assert not list((tmp_path / "state").rglob("*.pt"))
    weights = (directory / "recogniser.safetensors").read_bytes()
    capsys.readouterr()
    train_critics(recipe, PLAN)
    assert "trained already" in capsys.readouterr().out
    assert (directory / "recogniser.safetensors").read_bytes() == weights

    entries = measure_recognition(trained, [1.0, 0.5])
    table = json.loads((root / "one_shot" / "recognise.json").read_text())
    assert table["entries"] == entries
    who = ("30-20", "30-20_temperature_0.5", "people_30-20")
    kinds = ("recognised", "originality", "recognised_typical", "originality_typical")
    names = {f"{kind}_{name}" for kind in kinds for name in who}
    assert set(entries) == names | {"protonet_accuracy_30-20"}
    assert entries["recognised_30-20"]["images"] == 22 * SAMPLES
    assert entries["recognised_people_30-20"]["images"] == 22 * 3
    assert entries["recognised_people_30-20"]["se_by_alphabet"] > 0
    assert entries["recognised_people_30-20"]["value"] > entries["recognised_30-20"]["value"]
    assert table["command"].endswith("tiny.yaml --temperature 1 --temperature 0.5")
    assert table["about"]["critics"] == description["sha256"]
    assert (root / "one_shot" / "recognise.svg").stat().st_size > 5000

    with pytest.raises(BadInput, match=r"--temperature 1\.0 1\.0: give each once"):
        measure_recognition(trained, [1.0, 1.0])
    write_set(root / "shards", seed=9)
    digest = json.loads((root / "shards" / "manifest.json").read_text())["digest"]
    (root / "train" / "run.json").write_text(json.dumps({"manifest_digest": digest}))
    with pytest.raises(BadInput, match="critics of other shards"):
        measure_recognition(load_trained_model(str(path)), [1.0])
