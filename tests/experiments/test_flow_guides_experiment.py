"""The experiment on guides for posteriors with several modes: its evidence and weights are those of another
quadrature, and it runs."""

import math

import pytest
import torch
from scripts import EXPERIMENTS, load, run

SCRIPT = EXPERIMENTS / "flow_guides.py"


def test_evidence_of_the_direction() -> None:
    """By the trapezoidal rule in height and longitude, with the formulas of the densities written out."""
    script = load(SCRIPT)
    t = torch.linspace(-1, 1, 2001, dtype=torch.float64)
    phi = torch.arange(720, dtype=torch.float64) * (2 * math.pi / 720)
    t, phi = torch.meshgrid(t, phi, indexing="ij")
    r = (1 - t * t).sqrt()
    z = torch.stack([r * phi.cos(), r * phi.sin(), t], -1)
    k = 0.35
    prior = k / (4 * math.pi * math.sinh(k)) * (k * t).exp()
    off = (z @ script.BASELINES.double().mT - script.DELAYS.double()) / 0.1
    likelihood = (-0.5 * off.square().sum(-1)).exp() / (2 * math.pi * 0.01)
    along = (prior * likelihood).sum(1) * (2 * math.pi / 720)
    evidence = float(torch.trapezoid(along, dx=1e-3))
    above = float(torch.trapezoid(along[1000:], dx=1e-3))
    log_evidence, weight = script.by_quadrature(script.TARGETS["direction"], 48)
    assert log_evidence == pytest.approx(math.log(evidence), abs=1e-3)
    assert weight == pytest.approx(above / evidence, abs=1e-3)


def test_runs() -> None:
    text = run(SCRIPT, "--quick", "--targets", "direction")
    assert "| direction | 0 | quadrature | | | 0.6" in text
    assert text.count("| direction |") == 6
