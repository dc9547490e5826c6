import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from mer_ray.errors import ClipError, ConfigError, Reason
from mer_ray.pretrained.forward import Features, Item, Runner, buckets, has_fast_bfloat16, pick_device


@given(st.lists(st.integers(1, 500), max_size=60), st.integers(1, 2000), st.booleans())
def test_buckets_hold_every_item_once_within_the_budget(sizes, budget, exact):
    cut = buckets(sizes, budget, exact)
    assert sorted(i for bucket in cut for i in bucket) == list(range(len(sizes)))
    for bucket in cut:
        longest = max(sizes[i] for i in bucket)
        assert len(bucket) == 1 or len(bucket) * longest <= budget
        assert not exact or {sizes[i] for i in bucket} == {longest}
    longest_first = [sizes[bucket[0]] for bucket in cut]
    assert longest_first == sorted(longest_first, reverse=True)


def test_a_bucket_that_is_full_enough_takes_nothing_much_shorter():
    assert buckets([100, 99, 98, 50, 49], budget=6000) == [[0, 1, 2], [3, 4]]
    assert buckets([100, 99, 50, 49], budget=6000) == [[0, 1, 2], [3]], "a bucket of two may as well take a short one"


def pad(payloads):
    lengths = [len(payload) for payload in payloads]
    x = torch.zeros(len(payloads), max(lengths))
    for row, payload in zip(x, payloads, strict=True):
        row[: len(payload)] = torch.as_tensor(payload)
    return {"x": x, "lengths": lengths}


def items_of(lengths):
    rng = np.random.default_rng(0)
    return [Item(i, n, rng.standard_normal(n).astype(np.float32)) for i, n in enumerate(lengths)]


def doubled(inputs):
    return Features(2 * inputs["x"].unsqueeze(2), [(0, n) for n in inputs["lengths"]])


def test_results_come_in_the_order_of_the_items():
    items = items_of([3, 50, 7, 7, 21])
    results = Runner("cpu", torch.float32, budget=60).map(items, pad, doubled)
    for item, result in zip(items, results, strict=True):
        np.testing.assert_array_equal(result.numpy(), 2 * item.payload[:, None])


def test_out_of_memory_halves_the_batch_and_the_budget_and_loses_nothing():
    tried = []

    def forward(inputs):
        tried.append(tuple(inputs["x"].shape))
        if inputs["x"].numel() > 25:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return doubled(inputs)

    items = items_of([10] * 8)
    runner = Runner("cpu", torch.float32, budget=80)
    results = runner.map(items, pad, forward)
    assert tried[0] == (8, 10)
    assert runner.budget == 20
    for item, result in zip(items, results, strict=True):
        np.testing.assert_array_equal(result.numpy(), 2 * item.payload[:, None])
    tried.clear()
    runner.map(items, pad, forward)
    assert tried == [(2, 10)] * 4, "the smaller budget is kept"


def test_an_item_that_does_not_fit_alone_is_an_error_of_its_clip():
    def forward(inputs):
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(ClipError) as caught:
        Runner("cpu", torch.float32, budget=80).map(items_of([10, 10]), pad, forward)
    assert caught.value.reason is Reason.OUT_OF_MEMORY


@pytest.mark.parametrize(
    "told",
    [
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: you tried to allocate 2 bytes",
    ],
)
def test_a_library_that_lacks_memory_halves_the_batch(told):
    def forward(inputs):
        if len(inputs["x"]) > 1:
            raise RuntimeError(told)
        return doubled(inputs)

    assert len(Runner("cpu", torch.float32, budget=80).map(items_of([10] * 4), pad, forward)) == 4


def test_memory_that_the_machine_really_lacks_halves_the_batch():
    def forward(inputs):
        torch.empty(len(inputs["x"]), 2**47 if len(inputs["x"]) > 1 else 1)
        return doubled(inputs)

    assert len(Runner("cpu", torch.float32, budget=80).map(items_of([10] * 4), pad, forward)) == 4


def test_other_errors_are_not_taken_for_memory():
    def forward(inputs):
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes"):
        Runner("cpu", torch.float32, budget=80).map(items_of([10, 10]), pad, forward)


def test_in_bfloat16_matrices_are_halved_and_norms_are_not():
    model = nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8), nn.Embedding(4, 8))
    placed = Runner("cpu", torch.bfloat16, budget=1).place(model)
    assert [parameter.dtype for parameter in placed.parameters()] == [
        torch.bfloat16, torch.bfloat16, torch.float32, torch.float32, torch.float32,
    ]  # fmt: skip
    assert not any(parameter.requires_grad for parameter in placed.parameters())


def test_the_matrices_of_all_experts_are_halved_and_what_only_looks_like_them_is_not():
    experts = nn.Module()
    experts.num_experts = 3
    experts.projections = nn.Parameter(torch.zeros(3, 8, 4))
    experts.bias = nn.Parameter(torch.zeros(3, 8))
    tokens = nn.Module()
    tokens.class_token = nn.Parameter(torch.zeros(1, 1, 8))
    placed = Runner("cpu", torch.bfloat16, budget=1).place(nn.ModuleList([experts, tokens]))
    halved = [name for name, parameter in placed.named_parameters() if parameter.dtype == torch.bfloat16]
    assert halved == ["0.projections"]


def test_convolutions_in_float32_are_not_rounded_to_tf32_on_a_gpu():
    before = torch.backends.cudnn.allow_tf32
    assert not torch.backends.cuda.matmul.allow_tf32
    seen = []

    def forward(inputs):
        seen.append(torch.backends.cudnn.allow_tf32)
        return doubled(inputs)

    Runner("cpu", torch.float32, budget=80).map(items_of([10]), pad, forward)
    assert (seen, torch.backends.cudnn.allow_tf32) == ([False], before)


def test_in_float32_everything_is_float32():
    placed = Runner("cpu", torch.float32, budget=1).place(nn.Linear(8, 8).bfloat16())
    assert {parameter.dtype for parameter in placed.parameters()} == {torch.float32}


@pytest.mark.parametrize("avx512", [False, True])
@pytest.mark.parametrize("amx", [False, True])
def test_a_processor_is_fast_in_bfloat16_by_either_of_two_instruction_sets(monkeypatch, avx512, amx):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    assert has_fast_bfloat16("cpu") == (avx512 or amx)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_told():
    with pytest.raises(ConfigError, match="no CUDA device"):
        pick_device("cuda")
    assert pick_device("auto") == "cpu"
