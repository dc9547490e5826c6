import fusion_golden
import numpy as np

GOLDEN_LOGITS = [[-0.286772, 2.3191235], [0.1399283, 1.4402924]]
GOLDEN_WEIGHTS = [[0.4156922, 0.5843079], [1.0, 0.0]]


def test_it_is_the_formula_of_the_paper():
    h_BMD, state = fusion_golden.embedded("softmax_attention")
    scores = np.exp(h_BMD @ state["score.weight"][0] + state["bias"])
    weights = np.array([scores[0] / scores[0].sum(), [1, 0]])
    fused = np.array([weights[0] @ h_BMD[0], h_BMD[1, 0]])
    got = fusion_golden.result("softmax_attention")
    np.testing.assert_allclose(got[0], fused @ state["classify.weight"].T + state["classify.bias"], rtol=1e-5)
    np.testing.assert_allclose(got[1], weights, rtol=1e-5)


def test_golden_values():
    logits, weights = fusion_golden.result("softmax_attention")
    np.testing.assert_allclose(logits, GOLDEN_LOGITS, rtol=1e-5)
    np.testing.assert_allclose(weights, GOLDEN_WEIGHTS, rtol=1e-5)
