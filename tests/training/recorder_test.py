"""Which checkpoint is best."""

from geco_jax.training.recorder import score


def test_score_prefers_met_constraints_then_low_kl():
  met_scores = [score(kl, {'re': 0.01}, tolerance=0.02) for kl in (3.0, 5.0)]
  violated = [score(1.0, {'re': v}, tolerance=0.02) for v in (0.03, 0.5)]
  assert met_scores[0] < met_scores[1] < violated[0] < violated[1]
