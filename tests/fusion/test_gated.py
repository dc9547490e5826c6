import fusion_golden
import numpy as np

GOLDEN_LOGITS = [[-0.3156598, 0.2075172], [-0.3493288, 0.2281562]]
GOLDEN_WEIGHTS = [[0.8779638, 0.1220362], [1.0, 0.0]]


def test_of_two_features_it_is_the_papers_sigmoid_gate():
    h_BMD, state = fusion_golden.embedded("gated")
    values = [np.tanh(h_BMD[:, m] @ state[f"value.{m}.0.weight"].T + state[f"value.{m}.0.bias"]) for m in range(2)]
    scores = (h_BMD.reshape(2, 4) @ state["gate.weight"].T + state["gate.bias"]).reshape(2, 2, 2)
    z = 1 / (1 + np.exp(scores[:, 1] - scores[:, 0]))
    z[1] = 1  # the second clip lacks the second feature
    mixed = z * values[0] + (1 - z) * values[1]
    got = fusion_golden.result("gated")
    np.testing.assert_allclose(got[0], mixed @ state["classify.weight"].T + state["classify.bias"], rtol=1e-5)
    np.testing.assert_allclose(got[1], np.stack([z.mean(axis=1), 1 - z.mean(axis=1)], axis=1), rtol=1e-5)


def test_golden_values():
    logits, weights = fusion_golden.result("gated")
    np.testing.assert_allclose(logits, GOLDEN_LOGITS, rtol=1e-5)
    np.testing.assert_allclose(weights, GOLDEN_WEIGHTS, rtol=1e-5)
