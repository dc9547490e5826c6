import runpy
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from mer_ray import registry
from mer_ray.config import DenoiseConfig, EncoderConfig, FacesConfig, MediaConfig, PluginConfig, TranscribeConfig
from mer_ray.data.media import decode_flac, decode_jpeg, encode_flac, encode_jpeg
from mer_ray.demo.plan import Noise, plan
from mer_ray.demo.render import clean_voice, noisy_voice
from mer_ray.encoders import logmel
from mer_ray.encoders.base import ClipInput
from mer_ray.errors import ClipError, ConfigError, Reason
from mer_ray.recognisers.base import Transcript
from mer_ray.speech.select import choose
from mer_ray.stages import hearing
from mer_ray.stages.decode import decoder
from mer_ray.stages.denoise import DenoiseStage
from mer_ray.stages.encode import EncodeStage
from mer_ray.stages.faces import FacesStage
from mer_ray.stages.transcribe import TranscribeStage, clean

SAMPLES = runpy.run_path(str(Path(__file__).parents[1] / "media_samples.py"))
voice, talking_face, write_media = SAMPLES["voice"], SAMPLES["talking_face"], SAMPLES["write_media"]
CLIP = pa.struct([pa.field(name, pa.string()) for name in ("clip_id", "video", "audio", "faces", "text")])
MEDIA = MediaConfig()


def clip_batch(*clips, **columns):
    rows = [{name: clip.get(name) for name in CLIP.names} | {"clip_id": f"c{i}"} for i, clip in enumerate(clips)]
    return pa.table({"clip_id": [row["clip_id"] for row in rows], "clip": pa.array(rows, CLIP)} | columns)


def rows_of(stage, batch):
    stage.setup()
    return stage.process(stage.prepare(batch)).to_pylist()


def stored_audio(*waveforms):
    return pa.array([None if w is None else audio_row(encode_flac(w)) for w in waveforms])


def audio_row(flac, choice="original", original=None, said=()):
    return {
        "flac": flac,
        "choice": choice,
        "original": original,
        "transcripts": [hearing.to_column(one) for one in said],
    }


class TestAudio:
    def test_sound_comes_from_the_audio_file_before_the_video(self, tmp_path):
        video = write_media(tmp_path / "v.mp4", voice(1.0, 1), talking_face((64, 64), 25))
        audio = write_media(tmp_path / "a.wav", voice(2.0, 2), container="wav", audio_codec="pcm_s16le")
        both = {"video": str(video), "audio": str(audio)}
        rows = rows_of(DenoiseStage(MEDIA, DenoiseConfig(), 60.0), clip_batch(both, {"video": str(video)}))
        assert rows[0]["num_samples"] == 32_000
        np.testing.assert_allclose(decode_flac(rows[0]["flac"]), voice(2.0, 2), atol=1e-4)
        assert abs(rows[1]["num_samples"] - 16_000) < 1_100
        assert rows[0]["choice"] == "original"
        assert rows[0]["template"] is None

    def test_silence_and_a_blip_are_absent(self, tmp_path):
        paths = []
        for name, samples in (("silence", np.zeros(16_000, np.float32)), ("blip", voice(0.05))):
            paths.append(write_media(tmp_path / name, samples, container="wav", audio_codec="pcm_s16le"))
        rows = rows_of(DenoiseStage(MEDIA, DenoiseConfig(), 60.0), clip_batch(*({"audio": str(p)} for p in paths)))
        assert [(row["present"], row["error"]) for row in rows] == [(False, None)] * 2

    def test_denoising_follows_the_recognisers_choice(self, tmp_path):
        path = write_media(tmp_path / "a.wav", voice(1.0), container="wav", audio_codec="pcm_s16le")
        denoise = DenoiseConfig(enabled=True)
        (row,) = rows_of(DenoiseStage(MEDIA, denoise, 60.0), clip_batch({"audio": str(path)}))
        separator = registry.build("separators", denoise.separator.name, {})
        recogniser = registry.build("recognisers", denoise.recogniser.name, {})
        separator.load()
        recogniser.load()
        samples = decoder(MEDIA).audio(str(path))
        streams = separator.separate([samples])[0]
        texts = [said.text for said in recogniser.transcribe([samples, streams[0], streams[1]])]
        choice = choose(*texts, denoise.threshold)
        assert [row["template"], row["transcript_0"], row["transcript_1"]] == texts
        assert (row["similarity_0"], row["similarity_1"]) == (choice.similarity_0, choice.similarity_1)
        kept, name = (
            (samples, "original") if choice.index is None else (streams[choice.index], f"stream_{choice.index}")
        )
        assert row["choice"] == name
        np.testing.assert_allclose(decode_flac(row["flac"]), np.clip(kept, -1, 1), atol=1e-4)

    def test_media_are_decoded_before_the_models_work(self, tmp_path):
        path = write_media(tmp_path / "a.wav", voice(1.0), container="wav", audio_codec="pcm_s16le")
        stage = DenoiseStage(MEDIA, DenoiseConfig(enabled=True), 60.0)
        stage.setup()
        prepared = stage.prepare(clip_batch({"audio": str(path)}, {"audio": str(tmp_path / "gone.wav")}))
        path.unlink()
        there, gone = stage.process(prepared).to_pylist()
        assert there["num_samples"] == 16_000
        assert gone["error"] == Reason.MISSING_FILE

    def test_the_sound_as_it_was_is_kept_beside_another_that_is_chosen(self, tmp_path):
        clips = [clip for clip in plan(200, 0) if clip.noise in {Noise.WHITE, Noise.HUM} and clip.snr_db < 6][:6]
        paths = [tmp_path / f"{clip.clip_id}.wav" for clip in clips]
        for clip, path in zip(clips, paths, strict=True):
            write_media(path, noisy_voice(clip), container="wav", audio_codec="pcm_s16le")
        stage = DenoiseStage(MEDIA, DenoiseConfig(enabled=True), 60.0)
        rows = rows_of(stage, clip_batch(*({"audio": str(path)} for path in paths)))
        assert {"original"} < {row["choice"] for row in rows}
        for row, path in zip(rows, paths, strict=True):
            changed = row["choice"] != "original"
            assert (row["original"] is not None) == changed
            if changed:
                np.testing.assert_allclose(decode_flac(row["original"]), decoder(MEDIA).audio(str(path)), atol=1e-4)
            assert [one["text"] for one in row["transcripts"]] == [
                row["template"], row["transcript_0"], row["transcript_1"],
            ]  # fmt: skip

    def test_what_a_row_depends_on_is_in_the_spec(self):
        plain = DenoiseStage(MEDIA, DenoiseConfig(), 60.0).spec
        assert plain == DenoiseStage(MEDIA, DenoiseConfig(threshold=0.3), 5.0).spec  # off: its options do nothing
        on = [DenoiseStage(MEDIA, DenoiseConfig(enabled=True, threshold=t), 60.0).spec for t in (0.1, 0.3)]
        assert plain != on[0] != on[1]
        assert plain != DenoiseStage(MediaConfig(max_seconds=5), DenoiseConfig(), 60.0).spec


class TestFaces:
    def test_crops_hold_the_face(self, tmp_path):
        path = write_media(tmp_path / "v.mp4", None, talking_face((320, 240), 50, centre=0.3))
        (row,) = rows_of(FacesStage(MEDIA, FacesConfig(fps=5, size=96), 60.0), clip_batch({"video": str(path)}))
        assert len(row["crops"]) == len(row["times"]) == 10
        np.testing.assert_allclose(row["times"], np.arange(10) / 5, atol=0.1)
        boxes = np.array(row["boxes"]).reshape(-1, 4)
        assert np.abs(boxes[:, 0] + boxes[:, 2] / 2 - 96).max() < 20
        assert np.abs(boxes[:, 1] + boxes[:, 3] / 2 - 120).max() < 25
        picture = decode_jpeg(row["crops"][0])
        assert picture.shape == (96, 96, 3)
        assert row["size"] == 96
        middle = picture[30:66, 30:66].astype(int)
        assert middle[..., 0].mean() > middle[..., 2].mean() + 20  # skin: RGB, not BGR

    def test_no_face_is_absence(self, tmp_path):
        wall = np.random.default_rng(0).integers(90, 110, (25, 120, 160, 3), dtype=np.uint8)
        path = write_media(tmp_path / "v.mp4", voice(1.0), wall)
        (row,) = rows_of(FacesStage(MEDIA, FacesConfig(), 60.0), clip_batch({"video": str(path)}))
        assert (row["present"], row["error"]) == (False, None)

    def test_ready_faces_are_taken_as_they_are(self, tmp_path):
        faces = np.zeros((30, 112, 112, 3), np.uint8)
        faces[..., 0] = 200  # blue: MERTools writes BGR
        faces[:, :56, :, 2] = np.arange(30)[:, None, None] * 8
        np.save(tmp_path / "f.npy", faces)
        stage = FacesStage(MEDIA, FacesConfig(size=64, max_frames=10), 60.0)
        (row,) = rows_of(stage, clip_batch({"faces": str(tmp_path / "f.npy"), "video": "/none.mp4"}))
        pictures = np.stack([decode_jpeg(data) for data in row["crops"]])
        assert pictures.shape == (10, 64, 64, 3)
        assert pictures[..., 2].mean() > 180
        reds = pictures[:, 8:24, :, 0].mean(axis=(1, 2))
        assert (np.diff(reds) > 5).all()
        np.testing.assert_allclose(np.array(row["times"])[[0, -1]], [0.0, 29 / 25], atol=1e-5)
        assert row["boxes"] is None

    @pytest.mark.parametrize(
        ("array", "reason"),
        [
            (np.zeros((2, 8, 8), np.uint8), Reason.UNREADABLE),
            (np.zeros((2, 8, 8, 3), np.float32), Reason.UNREADABLE),
            (np.zeros((0, 8, 8, 3), np.uint8), Reason.UNREADABLE),
            (np.zeros((1, 2000, 4, 3), np.uint8), Reason.TOO_LARGE),
            (np.array([{"a": 1}], dtype=object), Reason.UNREADABLE),
        ],
    )
    def test_bad_face_arrays_are_refused(self, tmp_path, array, reason):
        np.save(tmp_path / "f.npy", array, allow_pickle=True)
        (row,) = rows_of(FacesStage(MEDIA, FacesConfig(), 60.0), clip_batch({"faces": str(tmp_path / "f.npy")}))
        assert row["error"] in {reason, Reason.TOO_SHORT} if 0 in array.shape else row["error"] == reason

    def test_a_face_array_that_lies_about_its_size_is_refused(self, tmp_path):
        np.save(tmp_path / "f.npy", np.zeros((2, 8, 8, 3), np.uint8))
        data = (tmp_path / "f.npy").read_bytes().replace(b"(2, 8, 8, 3), }", b"(99999999, 8, 8, 3), }")
        (tmp_path / "f.npy").write_bytes(data)
        (row,) = rows_of(FacesStage(MEDIA, FacesConfig(), 60.0), clip_batch({"faces": str(tmp_path / "f.npy")}))
        assert row["error"] == Reason.UNREADABLE


class TestTranscript:
    def test_the_manifests_text_is_cleaned_and_cut(self):
        stage = TranscribeStage(TranscribeConfig(max_characters=10), DenoiseConfig(), 60.0)
        texts = [
            "Cafe\u0301 \x00\tau\nlait",
            "x" * 1_000_000,
            " \n\u200b ",
            None,
            "\ud83d\ude00 ok".encode("utf-16", "surrogatepass").decode("utf-16"),
        ]
        rows = rows_of(stage, clip_batch(*({"text": text} for text in texts)))
        assert rows[0]["text"] == "Café au la"
        assert [row["truncated"] for row in rows] == [True, True, None, None, False]
        assert [row["present"] for row in rows] == [True, True, False, False, True]
        assert len(rows[1]["text"]) == 10
        assert rows[0]["source"] == "manifest"

    def test_only_wordless_clips_are_recognised(self):
        spoken = next(clip for clip in plan(40, 0) if clip.broken is None and clip.words)
        stage = TranscribeStage(TranscribeConfig(enabled=True), DenoiseConfig(), 60.0)
        sound = clean_voice(spoken)
        batch = clip_batch({"text": "given"}, {}, {}, audio=stored_audio(sound, sound, None))
        rows = rows_of(stage, batch)
        assert (rows[0]["text"], rows[0]["source"]) == ("given", "manifest")
        assert rows[1]["source"] == "recognised"
        assert set(rows[1]["text"].lower().split()) & {word.lower() for word in spoken.words}
        assert 0 <= rows[1]["confidence"] <= 1
        assert not rows[2]["present"]

    def test_broken_stored_audio_costs_its_clip_alone(self):
        stage = TranscribeStage(TranscribeConfig(enabled=True), DenoiseConfig(), 60.0)
        audio = pa.array([audio_row(b"broken"), audio_row(encode_flac(voice(1.0)))])
        rows = rows_of(stage, clip_batch({}, {}, audio=audio))
        assert [row["error"] for row in rows] == [Reason.UNREADABLE, None]

    def test_what_denoising_has_heard_is_not_recognised_again(self):
        denoise = DenoiseConfig(enabled=True)
        said = [Transcript("raw", 0.5, -1.0), Transcript("first", 0.5, -3.0), Transcript("second", 0.9, -0.1)]
        audio = pa.array([audio_row(b"not read", "stream_1", b"not read", said)] * 2)
        heard = {}
        for hears in ("original", "chosen", "better"):
            stage = TranscribeStage(TranscribeConfig(enabled=True, hears=hears), denoise)
            row, other = rows_of(stage, clip_batch({}, {"text": "own words"}, audio=audio))
            heard[hears] = (row["text"], row["heard"], row["confidence"], row["score"])
            assert (other["text"], other["heard"]) == ("own words", None)
        assert heard["original"] == ("raw", "original", 0.5, -1.0)
        assert heard["chosen"] == heard["better"] == ("second", "stream_1", 0.9, -0.1)

    def test_another_recogniser_hears_the_sound_itself_as_it_was_or_as_it_was_denoised(self):
        first, second = [clip for clip in plan(40, 0) if clip.broken is None and len(clip.words) > 1][:2]
        other = PluginConfig(name="templates", options={"word_penalty": 12.0})
        audio = pa.array(
            [
                audio_row(
                    encode_flac(clean_voice(second)), "stream_0", encode_flac(clean_voice(first)), [Transcript("x", 1)]
                )
            ]
        )
        text = {}
        for hears in (None, "original", "chosen"):
            told = TranscribeConfig(enabled=True, hears=hears, recogniser=other)
            (row,) = rows_of(TranscribeStage(told, DenoiseConfig(enabled=True)), clip_batch({}, audio=audio))
            text[hears] = (set(row["text"].lower().split()), row["heard"])
        assert text[None] == text["original"] != text["chosen"]
        assert text["original"][0] & {word.lower() for word in first.words}
        assert text["chosen"][0] & {word.lower() for word in second.words}
        assert (text["original"][1], text["chosen"][1]) == ("original", "stream_0")

    def test_clean_keeps_scripts_and_joined_signs(self):
        assert clean("你好，世界！") == "你好，世界！"
        assert clean("👩\u200d👧 नमस्ते") == "👩\u200d👧 नमस्ते"
        assert clean("a\ufffdb\ud800c") == "abc"


class Faulty(logmel.Encoder):
    """Log-mel features, but for clips whose first sample says otherwise."""

    batches: list[int]

    def encode(self, clips):
        self.batches.append(len(clips))
        for clip in clips:
            if round(float(clip.audio[0]), 1) == 0.1:
                raise ClipError(Reason.TOO_SHORT, "told to")
            if round(float(clip.audio[0]), 1) == 0.2:
                raise KeyError("weights")
        made = super().encode(clips)
        return [f * np.nan if round(float(c.audio[0]), 1) == 0.3 else f for c, f in zip(clips, made, strict=True)]


class Loud(logmel.Encoder):
    """A million where the sound starts with 0.1."""

    def encode(self, clips):
        made = super().encode(clips)
        return [f + 1e6 * (round(float(c.audio[0]), 1) == 0.1) for c, f in zip(clips, made, strict=True)]


class TestEncode:
    def stage(self, **options):
        return EncodeStage("mel", EncoderConfig(plugin="logmel", **options), 60.0)

    def batch(self, starts):
        waveforms = [np.concatenate([np.full(10, s, np.float32), voice(0.5, i)]) for i, s in enumerate(starts)]
        return pa.table({"clip_id": [f"c{i}" for i in range(len(starts))], "audio": stored_audio(*waveforms)})

    def test_each_clip_fails_for_itself_with_its_reason(self):
        stage = self.stage()
        stage.encoder = Faulty(stage.encoder.config)
        stage.encoder.batches = []
        rows = rows_of(stage, self.batch([0.5, 0.1, 0.6, 0.2, 0.3, 0.7]))
        errors = [row["error"] for row in rows]
        assert errors == [None, Reason.TOO_SHORT, None, Reason.FAILED, Reason.NOT_FINITE, None]
        assert "KeyError" in rows[3]["detail"]
        assert stage.encoder.batches[0] == 6
        expected = rows_of(self.stage(), self.batch([0.5, 0.1, 0.6, 0.2, 0.3, 0.7]))
        assert [rows[i]["vector"] for i in (0, 2, 5)] == [expected[i]["vector"] for i in (0, 2, 5)]

    def test_the_encoder_gets_what_the_tables_hold(self, tmp_path):
        path = write_media(tmp_path / "v.mp4", voice(1.0), talking_face((160, 120), 25))
        batch = clip_batch({"video": str(path), "text": "oh no"})
        made = {}
        for stage in (
            DenoiseStage(MEDIA, DenoiseConfig(), 60.0),
            FacesStage(MEDIA, FacesConfig(), 60.0),
            TranscribeStage(TranscribeConfig(), DenoiseConfig(), 60.0),
        ):
            made[stage.name] = rows_of(stage, batch)
            batch = batch.append_column(stage.name, pa.array(made[stage.name]))
        given = ClipInput(
            audio=decode_flac(made["audio"][0]["flac"]),
            faces=np.stack([decode_jpeg(data) for data in made["faces"][0]["crops"]]),
            face_times=np.array(made["faces"][0]["times"], np.float32),
            text="oh no",
        )
        for name in ("motion", "audio_text", "logmel"):
            stage = EncodeStage(name, EncoderConfig(plugin=name), 60.0)
            (row,) = rows_of(stage, batch)
            np.testing.assert_array_equal(row["vector"], stage.encoder.encode([given])[0][0])

    def test_an_encoder_hears_the_denoised_sound_or_the_sound_as_it_was(self):
        chosen, original = voice(1.0, 1), voice(1.0, 2)
        audio = [audio_row(encode_flac(chosen), "stream_0", encode_flac(original)), audio_row(encode_flac(original))]
        batch = pa.table({"clip_id": ["a", "b"], "audio": pa.array(audio)})
        denoised, as_it_was = self.stage(), self.stage(hears="original")
        assert denoised.spec != as_it_was.spec
        first, second = ([row["vector"] for row in rows_of(stage, batch)] for stage in (denoised, as_it_was))
        expected = [row["vector"] for row in rows_of(self.stage(), pa.table({
            "clip_id": ["a", "b"], "audio": stored_audio(chosen, original)
        }))]  # fmt: skip
        assert first == expected
        assert second == [expected[1]] * 2
        with pytest.raises(ConfigError, match="reads no sound"):
            EncodeStage("faces", EncoderConfig(plugin="hog", hears="original"), 60.0)

    def test_spec_and_provenance_say_what_made_it(self):
        assert self.stage().spec == self.stage(batch_size=3, cpus=0.5).spec  # how it is run is no part of it
        assert self.stage().spec == self.stage(options={"num_bands": 40}).spec
        assert self.stage().spec != self.stage(options={"num_bands": 20}).spec
        assert self.stage().spec != self.stage(pooling="mean_std").spec
        assert self.stage(pooling="mean_std").provenance["pooling"] == "mean_std"
        assert self.stage().provenance["model"] == "logmel"

    def test_several_poolings_are_made_in_one_pass(self):
        batch = self.batch([0.5, 0.6])
        rows = rows_of(self.stage(pooling=["mean_std", "mean", "mean_std"]), batch)
        for pooling, column in (("mean_std", "vector"), ("mean", "vector_mean")):
            alone = rows_of(self.stage(pooling=pooling), batch)
            assert [row[column] for row in rows] == [row["vector"] for row in alone]
        assert set(rows[0]) >= {"vector", "vector_mean"}
        assert "vector_mean_std" not in rows[0]

    @pytest.mark.parametrize("dtype", ["float16", "float32"])
    def test_frames_are_kept_on_request(self, dtype):
        stage = EncodeStage("hog", EncoderConfig(plugin="hog", sequences=dtype), 60.0)
        faces = talking_face((112, 112), 5)
        crops = [encode_jpeg(face) for face in faces]
        row_in = {"crops": crops, "times": [0.2 * i for i in range(5)]}
        batch = pa.table({"clip_id": ["a"], "faces": pa.array([row_in])})
        (row,) = rows_of(stage, batch)
        assert (row["num_frames"], row["dim"]) == (5, 576)
        frames = np.frombuffer(row["frames"], dtype).reshape(5, 576)
        given = ClipInput(
            faces=np.stack([decode_jpeg(crop) for crop in crops]), face_times=np.array(row_in["times"], np.float32)
        )
        np.testing.assert_array_equal(frames, stage.encoder.encode([given])[0].astype(dtype))
        assert stage.provenance["frames_dtype"] == dtype
        assert stage.spec != EncodeStage("hog", EncoderConfig(plugin="hog"), 60.0).spec

    def test_frames_too_large_for_their_type_are_an_error_of_the_clip(self):
        stage = self.stage(sequences="float16")
        stage.encoder = Loud(stage.encoder.config)
        rows = rows_of(stage, self.batch([0.5, 0.1, 0.6]))
        assert [row["error"] for row in rows] == [None, Reason.NOT_FINITE, None]
        assert "do not fit in float16" in rows[1]["detail"]

    def test_a_model_runs_where_its_worker_has_its_resources(self):
        options = {"weights": {"source": "random:hubert-base"}}
        placed = {
            gpus: EncodeStage("h", EncoderConfig(plugin="hubert", options=options, gpus=gpus), 60.0) for gpus in (0, 1)
        }
        assert [stage.encoder.config.device for stage in placed.values()] == ["cpu", "cuda"]
        assert [stage.provenance["dtype"] for stage in placed.values()] == ["float32", "bfloat16"]
        assert placed[0].spec != placed[1].spec, "another precision gives other numbers"

    def test_resources_follow_the_config(self):
        resources = self.stage(batch_size=3, cpus=0.5, gpus=1).resources
        assert (resources.batch_size, resources.cpus, resources.gpus, resources.clip_seconds) == (3, 0.5, 1, 60.0)
