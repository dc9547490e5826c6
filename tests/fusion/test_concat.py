import fusion_golden
import numpy as np

GOLDEN_LOGITS = [[1.4565638, 2.0924783], [1.1894979, 1.6455482]]
GOLDEN_WEIGHTS = [[0.3392835, 0.6607165], [1.0, 0.0]]


def test_it_is_a_perceptron_over_the_concatenation_and_its_weights_are_shares_of_the_first_layer():
    h_BMD, state = fusion_golden.embedded("concat")
    mixed = np.maximum(h_BMD.reshape(2, 4) @ state["mix.weight"].T + state["mix.bias"], 0)
    logits = mixed @ state["classify.2.weight"].T + state["classify.2.bias"]
    added = [np.linalg.norm(h_BMD[:, m] @ state["mix.weight"][:, 2 * m : 2 * m + 2].T, axis=1) for m in range(2)]
    norms = np.stack(added, axis=1)
    norms[1, 1] = 0
    got = fusion_golden.result("concat")
    np.testing.assert_allclose(got[0], logits, rtol=1e-5)
    np.testing.assert_allclose(got[1], norms / norms.sum(axis=1, keepdims=True), rtol=1e-4)


def test_golden_values():
    logits, weights = fusion_golden.result("concat")
    np.testing.assert_allclose(logits, GOLDEN_LOGITS, rtol=1e-5)
    np.testing.assert_allclose(weights, GOLDEN_WEIGHTS, rtol=1e-5)
