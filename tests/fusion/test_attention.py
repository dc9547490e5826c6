import fusion_golden
import numpy as np

GOLDEN_LOGITS = [[3.2739534, 0.6646336], [1.4165103, 0.0870854]]
GOLDEN_WEIGHTS = [[0.3461707, 0.6538293], [1.0, 0.0]]


def test_it_is_the_formula_of_the_paper():
    h_BMD, state = fusion_golden.embedded("attention")
    hidden = np.maximum(h_BMD.reshape(2, 4) @ state["score.0.weight"].T + state["score.0.bias"], 0)
    scores = hidden @ state["score.3.weight"].T + state["score.3.bias"]
    scores[1, 1] = -np.inf
    weights = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    fused = (weights[:, :, None] * h_BMD).sum(axis=1)
    logits = fused @ state["classify.weight"].T + state["classify.bias"]
    got = fusion_golden.result("attention")
    np.testing.assert_allclose(got[0], logits, rtol=1e-5)
    np.testing.assert_allclose(got[1], weights, rtol=1e-5)


def test_golden_values():
    logits, weights = fusion_golden.result("attention")
    np.testing.assert_allclose(logits, GOLDEN_LOGITS, rtol=1e-5)
    np.testing.assert_allclose(weights, GOLDEN_WEIGHTS, rtol=1e-5)
