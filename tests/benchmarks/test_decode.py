"""The benchmark of decoding, on small clips."""

import numpy as np
import pytest
from rich.console import Console

from mer_ray.benchmarks import decode
from mer_ray.config import MediaConfig
from mer_ray.data.media import Decoder


def test_each_way_is_measured_on_the_same_clips():
    settings = decode.Config(heights=[120, 144], clips=1, seconds=1.0, repeats=1)
    *_, told = decode.run(settings, Console(quiet=True))
    assert [*told["heights"]] == ["120", "144"]
    for figures in told["heights"].values():
        assert figures["together_cpu_s"] == pytest.approx(figures["ratio"] * figures["every_frame_cpu_s"])
        assert figures["fewer_frames_cpu_s"] > 0
        assert 0 <= figures["most_off_s"] <= 0.1
        assert figures["clip_bytes"] > 1000


def test_the_clips_are_of_the_size_and_rate_that_were_asked_for(tmp_path):
    settings = decode.Config(clips=2, seconds=1.0, rate=30.0)
    paths = list(decode.write(tmp_path, 144, settings))
    with Decoder(MediaConfig()) as decoder:
        for path in paths:
            probe = decoder.probe(str(path))
            assert (probe.width, probe.height, probe.frames_per_second) == (256, 144, 30.0)
            heard, seen = decoder.audio_and_frames(str(path), 30.0, 100)
            assert len(seen.times) == 30
            assert np.abs(heard).max() > 0.05
            assert 0.9 < len(heard) / 16_000 < 1.2
    assert paths[0].read_bytes() != paths[1].read_bytes()
