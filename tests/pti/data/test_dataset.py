"""Pictures and captions from every source; whatever cannot be used is named."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from clipgeom.errors import ConfigError
from pti.config.schema import DataSection
from pti.data import latent_cache
from pti.data.dataset import read_images
from pti.data.latent_cache import LatentCache
from pti.data.latent_refinement import refine_latents
from pti.data.transforms import image_to_tensor
from pti.data.views import ImageView
from pti.errors import DataError
from pti.models.pipeline import load_pipeline
from pti.models.sampling import decode_latents
from tests.tiny.runs import write_pictures

CAPTIONS = ("a {token} at night", "{token}, by the sea", "a drawing of {token}")


@pytest.fixture
def folder(tmp_path):
    return write_pictures(tmp_path / "pictures", CAPTIONS)


def read(folder, **changes):
    return read_images(DataSection(source=str(folder), **changes))


def test_captions_from_metadata_from_files_and_from_a_template(folder):
    assert [s.caption for s in read(folder).samples] == list(CAPTIONS)
    assert {s.caption for s in read(folder, instance_prompt="ink {token}").samples} == {"ink {token}"}
    (folder / "metadata.jsonl").unlink()
    for i, caption in enumerate(CAPTIONS):
        (folder / f"{i}.txt").write_text(f"{caption}\n", encoding="utf-8")
    assert [s.caption for s in read(folder).samples] == list(CAPTIONS)
    assert len(read(folder, max_images=2).samples) == 2
    assert [s.caption for s in read(folder, holdout=1).held_out] == [CAPTIONS[2]]


def test_another_column_of_the_metadata(folder):
    rows = [{"file_name": f"{i}.png", "prompt": f"{{token}} {i}"} for i in range(3)]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert read(folder, caption_column="prompt").samples[2].caption == "{token} 2"
    with pytest.raises(DataError, match=r"metadata.jsonl, line 1 lacks 'text'; it needs file_name and text"):
        read(folder)


def test_miniworld_knows_the_class_of_its_characters():
    pictures = read_images(DataSection(source="miniworld:comet"))
    assert pictures.class_word == "robot"
    assert len(pictures.samples) == 6
    assert all("{token}" in s.caption and "robot" not in s.caption for s in pictures.samples)
    with pytest.raises(ConfigError, match="no new character 'comte' \\(did you mean 'comet'"):
        read_images(DataSection(source="miniworld:comte"))


def test_a_data_set(folder, monkeypatch):
    import datasets

    table = datasets.load_dataset("imagefolder", data_dir=str(folder), split="train")
    asked = []
    monkeypatch.setattr(datasets, "load_dataset", lambda name, split: asked.append((name, split)) or table)
    found = read_images(DataSection(source="somebody/pictures", split="some"))
    assert asked == [("somebody/pictures", "some")]
    assert sorted(s.caption for s in found.samples) == sorted(CAPTIONS)
    assert found.samples[0].decode().mode == "RGB"
    with pytest.raises(DataError, match="has no column 'caption'; it has image, text"):
        read_images(DataSection(source="somebody/pictures", caption_column="caption"))


def test_no_pictures(tmp_path):
    with pytest.raises(DataError, match="has no images"):
        read(tmp_path)
    for absent in (tmp_path / "absent", "absent"):  # neither asks the hub
        with pytest.raises(DataError, match="expected a folder"):
            read(absent)


def test_one_picture_is_trained_on_with_a_word_of_warning(tmp_path):
    folder = write_pictures(tmp_path / "one", CAPTIONS[:1])
    (note,) = read(folder).notes
    assert "single image" in note
    assert read(write_pictures(tmp_path / "two", CAPTIONS[:2])).notes == ()
    with pytest.raises(ConfigError, match=r"data\.holdout = 1 leaves nothing to train on"):
        read(folder, holdout=1)


def test_a_corrupt_picture_is_named(folder):
    content = (folder / "1.png").read_bytes()
    for damaged in (content[: len(content) // 2], b"no picture at all", b""):
        (folder / "1.png").write_bytes(damaged)
        with pytest.raises(DataError, match=r"1\.png cannot be decoded as an image"):
            read(folder)


@pytest.mark.parametrize("caption", ["a knight", "a {tokens}", "a token"])
def test_a_caption_without_the_placeholder_is_named(tmp_path, caption):
    folder = write_pictures(tmp_path / "p", ("{token}", caption))
    with pytest.raises(DataError, match=r"the caption of .*1\.png lacks \{token\}"):
        read(folder)
    assert len(read_images(DataSection(source=str(folder)), needs_token=False).samples) == 2


def test_pictures_and_metadata_have_to_fit(folder):
    (folder / "2.png").rename(folder / "3.png")
    with pytest.raises(DataError, match=r"metadata.jsonl names 2\.png, which is not there"):
        read(folder)
    write_pictures(folder, CAPTIONS[:2])
    with pytest.raises(DataError, match=r"no line for 3\.png"):
        read(folder)
    (folder / "metadata.jsonl").write_text("{]")
    with pytest.raises(DataError, match="line 1 is no JSON object"):
        read(folder)
    (folder / "metadata.jsonl").unlink()
    with pytest.raises(DataError, match=r"0\.png has no caption"):
        read(folder)


def test_what_a_metadata_file_may_not_be(folder, tmp_path):
    metadata = folder / "metadata.jsonl"
    rows = [json.dumps({"file_name": f"{i}.png", "text": f"{{token}} {i}"}) for i in range(3)]
    for line, message in (
        ('{"file_name": "2.png", "text": null}', "line 3: text is a text in quotes; got null"),
        ('{"file_name": "2.png", "text": 3}', "line 3: text is a text in quotes; got 3"),
        (rows[1], "has two lines for 1.png; keep one"),
    ):
        metadata.write_text("\n".join([*rows[:2], line]))
        with pytest.raises(DataError, match=message):
            read_images(DataSection(source=str(folder)), needs_token=False)
    metadata.write_bytes("\n".join(rows).encode("utf-16"))
    with pytest.raises(DataError, match=r"metadata\.jsonl is not in UTF-8 .*; save it in that encoding"):
        read(folder)
    apart = json.dumps({"file_name": "2.png", "text": "{token}\u2028at night"}, ensure_ascii=False)
    metadata.write_text("\n".join([*rows[:2], apart]), encoding="utf-8-sig")  # a mark, and an end of line that is none
    assert [s.caption for s in read(folder).samples] == ["{token} 0", "{token} 1", "{token}\u2028at night"]
    metadata.unlink()
    (folder / "0.txt").write_bytes("caf\xe9 {token}".encode("latin-1"))
    with pytest.raises(DataError, match=r"0\.txt is not in UTF-8"):
        read(folder)


def test_the_digest_knows_pictures_and_captions(folder):
    before = read(folder).digest
    assert read(folder).digest == before
    assert read(folder, instance_prompt="{token}").digest != before
    Image.new("RGB", (9, 9)).save(folder / "1.png")
    assert read(folder).digest != before


def test_what_is_transparent_is_white_and_what_lies_on_its_side_stands_up(tmp_path):
    folder = write_pictures(tmp_path / "p", CAPTIONS[:2])
    Image.new("RGBA", (4, 4), (255, 0, 0, 0)).save(folder / "0.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (6, 4)).save(folder / "1.png", exif=exif)
    first, second = (s.decode() for s in read(folder).samples)
    assert np.asarray(first).min() == 255
    assert second.size == (4, 6)


def test_deep_greys_keep_their_shades(tmp_path):
    folder = write_pictures(tmp_path / "p", CAPTIONS[:2])
    shades = np.arange(16, dtype=np.uint16).reshape(4, 4) * 4369
    Image.fromarray(shades).save(folder / "0.png")
    first, _ = (s.decode() for s in read(folder).samples)
    np.testing.assert_array_equal(np.asarray(first)[..., 0], shades // 257)
    Image.fromarray(np.ones((4, 4), dtype=np.float32)).save(folder / "1.png", format="tiff")
    with pytest.raises(DataError, match=r"1\.png cannot be decoded .*8 bits a channel"):
        read(folder)


def test_cut_outs():
    image = Image.fromarray(np.arange(12 * 8 * 3, dtype=np.uint8).reshape(8, 12, 3))
    rng = np.random.default_rng(0)
    center, sizes = image_to_tensor(image, 8, "center_crop", rng)
    np.testing.assert_allclose((center.numpy() + 1) * 127.5, np.asarray(image)[:, 2:10].transpose(2, 0, 1), atol=1e-4)
    assert sizes.tolist() == [[8, 12, 0, 2, 8, 8]]
    mirrored, _ = image_to_tensor(image, 8, "center_crop", rng, mirrored=True)
    assert torch.equal(mirrored, center.flip(-1))
    squeezed, sizes = image_to_tensor(image, 8, "stretch", rng)
    assert sizes.tolist() == [[8, 12, 0, 0, 8, 8]]
    assert not torch.equal(squeezed, center)
    lefts = {int(image_to_tensor(image, 8, "random_crop", rng)[1][0, 3]) for _ in range(50)}
    assert lefts == {0, 1, 2, 3, 4}


def test_latents_are_kept_by_view_and_match_their_pictures(folder, sd):
    """Trap 6: whatever order they are asked for in, a view has its own picture's latent and caption."""
    model = load_pipeline(str(sd))
    samples = read(folder).samples
    settings = DataSection(
        source=str(folder),
        resize_mode="random_crop",
        num_random_crops=2,
        random_flip=True,
        vae_encoding="mode",
        latent_refinement_steps=0,
    )
    shuffled, ordered = (LatentCache(model, samples, settings, seed=3) for _ in range(2))
    views = [ImageView(s, c, m) for s in range(3) for c in range(2) for m in (False, True)]
    noise = torch.zeros(1, 4, 4, 4)
    alone = {view: ordered.of([view], noise)[0] for view in views}
    mixed = [views[i] for i in (5, 0, 11, 5, 2)]
    together, sizes = shuffled.of(mixed, noise.expand(5, -1, -1, -1))
    for row, view in enumerate(mixed):
        assert torch.equal(together[row], alone[view][0])
        assert shuffled.caption(view) == CAPTIONS[view.sample]
        with torch.no_grad():
            image = samples[view.sample].decode()
            array, _ = image_to_tensor(
                image, 8, "random_crop", np.random.default_rng((3, view.sample, view.crop)), mirrored=view.mirrored
            )
            by_hand = model.vae.encode(array[None]).latent_dist.mean[0] * 0.5
        torch.testing.assert_close(together[row], by_hand)
        assert sizes[row, :2].tolist() == [image.height, image.width]
    assert len({tuple(latent.flatten().tolist()) for latent in alone.values()}) == len(views)


def test_latents_are_fitted_to_their_picture(folder, sd):
    model = load_pipeline(str(sd))
    samples = read(folder).samples
    encoded, near, fitted = (
        LatentCache(model, samples, DataSection(vae_encoding="mode", latent_refinement_steps=n), seed=0)
        for n in (0, 3, 60)
    )
    views, noise = [ImageView(0), ImageView(1, mirrored=True)], torch.zeros(2, 4, 4, 4)
    pictures = torch.stack([encoded.pixels(view)[0] for view in views])

    def error(kept):
        found, sizes = kept.of(views, noise)
        assert torch.equal(sizes, encoded.of(views, noise)[1])
        return float((model.vae.decode(found / model.vae.config.scaling_factor).sample - pictures).abs().mean())

    assert error(fitted) < error(near) < error(encoded)
    moved = fitted.of(views, noise)[0] - encoded.of(views, noise)[0]
    assert 0 < float(moved.abs().max()) < 60 * 0.025  # no further than the steps go
    again = LatentCache(model, samples, DataSection(vae_encoding="mode", latent_refinement_steps=60), seed=0)
    assert torch.equal(again.of(views[1:], noise[1:])[0], fitted.of(views, noise)[0][1:])  # each on its own
    assert all(parameter.grad is None for parameter in model.vae.parameters())


@pytest.mark.parametrize(
    ("settings", "mean", "factor"),
    [
        ({"latents_mean": [1.0, -0.5, 0.0, 2.0], "latents_std": [2.0, 1.0, 0.5, 4.0]}, [1, -0.5, 0, 2], [1, 2, 4, 0.5]),
        ({"shift_factor": 0.25}, [0.25] * 4, [2] * 4),
        ({"latents_mean": [1.0, 1.0, 1.0, 1.0]}, [0] * 4, [2] * 4),  # diffusers needs both
    ],
)
def test_latents_are_scaled_as_the_autoencoder_is_configured(folder, sd, settings, mean, factor):
    model, samples = load_pipeline(str(sd)), read(folder).samples
    model.vae.register_to_config(scaling_factor=2.0, **settings)
    data = DataSection(vae_encoding="mode", latent_refinement_steps=0)
    kept = LatentCache(model, samples, data, seed=0)
    found = kept.of([ImageView(0)], torch.zeros(1, 4, 4, 4))[0]
    picture = kept.pixels(ImageView(0))[0][None]
    own = model.vae.encode(picture).latent_dist.mean
    wanted = (own - torch.tensor(mean).view(4, 1, 1)) * torch.tensor(factor).view(4, 1, 1)
    torch.testing.assert_close(found, wanted)
    shown = (model.vae.decode(own).sample / 2 + 0.5).clamp(0, 1)
    np.testing.assert_allclose(decode_latents(model, found) / 255, shown.permute(0, 2, 3, 1).numpy(), atol=0.51 / 255)
    before, after = (refine_latents(model.vae, own, picture, n) for n in (0, 30))
    error = [float((model.vae.decode(z).sample - picture).abs().mean()) for z in (before, after)]
    assert error[1] < error[0]


def test_latents_that_were_fitted_before_are_not_fitted_again(folder, sd, monkeypatch):
    model = load_pipeline(str(sd))
    settings = DataSection(
        source=str(folder), resize_mode="random_crop", num_random_crops=2, random_flip=True, latent_refinement_steps=3
    )
    first, second = (LatentCache(model, read(folder).samples, settings, seed=3) for _ in range(2))
    means = first.means()
    views = [ImageView(s, c, m) for s in range(3) for c in range(2) for m in (False, True)]
    assert means.shape == (len(views), *first.shape)
    noise = torch.randn(len(views), *first.shape)
    wanted = first.of(views, noise)
    second.take(means)
    monkeypatch.setattr(latent_cache, "refine_latents", None)  # whoever calls it fails
    for found, expected in zip(second.of(views, noise), wanted, strict=True):
        assert torch.equal(found, expected)


def test_any_latents_can_be_fitted(sd):
    model = load_pipeline(str(sd))
    shown = model.vae.decode(torch.randn(1, 4, 4, 4)).sample.detach()
    exact = model.vae.encode(shown).latent_dist.mean
    assert torch.equal(refine_latents(model.vae, exact, shown, 0), exact)
    before, after = (
        float((model.vae.decode(z).sample - shown).abs().mean())
        for z in (exact, refine_latents(model.vae, exact, shown, 40))
    )
    assert after < before


def test_sampled_latents_spread_about_the_mean(folder, sd):
    model = load_pipeline(str(sd))
    samples = read(folder).samples
    mean, sampled = (
        LatentCache(model, samples, DataSection(vae_encoding=kind, latent_refinement_steps=3), seed=0)
        for kind in ("mean", "sample")
    )
    noise = torch.randn(1, 4, 4, 4)
    middle = mean.of([ImageView(0)], noise)[0]
    assert torch.equal(sampled.of([ImageView(0)], 0 * noise)[0], middle)
    up, down = sampled.of([ImageView(0)], noise)[0], sampled.of([ImageView(0)], -noise)[0]
    torch.testing.assert_close((up + down) / 2, middle)
    assert not torch.equal(up, middle)
