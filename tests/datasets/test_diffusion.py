"""Diffusion data: closed forms against quadrature and rotations, simulated crossings that a tensor does not tell from
their mirror image, and voxels of a scan against tensors that are known."""

import math
import sys
from pathlib import Path
from typing import Any

import geoopt
import pytest
import torch

from pyro_manifold.datasets import (
    crossing_bundles,
    diffusion_scan,
    fit_diffusion_scan,
    half_icosphere,
    odf_peaks,
    odf_to_sphere,
    sphere_to_odf,
    tensor_odf,
)
from pyro_manifold.geometry import SpecialOrthogonal, geometry
from pyro_manifold.ops.icosphere import icosphere
from pyro_manifold.testing.quadrature import directions

F64 = torch.float64
SPHERE = geometry(geoopt.Sphere())
ROTATION = geometry(SpecialOrthogonal(3))


# --- axes and ODFs
@pytest.mark.parametrize("frequency", [1, 2, 3, 6])
def test_axes(frequency: int) -> None:
    """One of each two opposite vertices; the triangles cover the sphere once (their solid angles add up to 4 pi)."""
    u = half_icosphere(frequency, dtype=F64)
    assert u.shape == (5 * frequency**2 + 1, 3)
    both = torch.cat([u, -u])
    assert float((both @ both.mT - 2 * torch.eye(len(both), dtype=F64)).max()) < 1 - 0.3 / frequency**2
    vertices, triangles = icosphere(frequency)
    assert vertices.shape == (10 * frequency**2 + 2, 3) and triangles.shape == (20 * frequency**2, 3)
    a, b, c = vertices[triangles].unbind(1)
    volume = (a * torch.linalg.cross(b, c)).sum(-1)
    angle = 2 * torch.atan2(volume, 1 + (a * b).sum(-1) + (b * c).sum(-1) + (c * a).sum(-1))
    assert bool((angle > 0).all()) and float(angle.sum()) == pytest.approx(4 * math.pi)


def test_odf_of_a_tensor_is_the_share_of_a_cone() -> None:
    r"""The mass of a normal of covariance D in a cone: of all directions 1, of those about axis 3 what draws say (40000,
    within 4 standard errors)."""
    rotation = ROTATION.uniform_sample((), (3, 3), dtype=F64)
    d = rotation @ torch.diag(torch.tensor([1.7, 0.5, 0.3], dtype=F64)) @ rotation.mT
    u, w = directions(3, 64)
    odf = (u * torch.linalg.solve(d, u.mT).mT).sum(-1) ** -1.5 / (4 * math.pi * d.det().sqrt())
    assert float((w * odf).sum()) == pytest.approx(1, abs=1e-9)
    cone = (u[:, 2].abs() > 0.8).double()
    torch.manual_seed(0)
    x = torch.distributions.MultivariateNormal(torch.zeros(3, dtype=F64), d).sample((40_000,))
    share = (x[:, 2].abs() > 0.8 * x.norm(dim=-1)).double().mean()
    assert (
        abs(float((w * odf * cone).sum() - share)) < 4 * (0.25 / 40_000) ** 0.5 + 2e-3
    )  # the edge of the cone
    axes = half_icosphere(3, dtype=F64)
    torch.testing.assert_close(
        tensor_odf(d, axes), (p := (axes * torch.linalg.solve(d, axes.mT).mT).sum(-1) ** -1.5) / p.sum()
    )


def test_square_roots() -> None:
    odf = torch.rand(4, 46, dtype=F64)
    x = odf_to_sphere(odf, normalise=True)
    assert bool(SPHERE.contains(x).all())
    torch.testing.assert_close(sphere_to_odf(x), odf / odf.sum(-1, keepdim=True))
    assert odf_to_sphere(torch.zeros(0, 5)).shape == (0, 5)


@pytest.mark.parametrize(
    "make, match",
    [
        (
            lambda: odf_to_sphere(torch.full((3, 4), 0.3)),
            "odf: got .* at index .*add up to 1.*normalise=True",
        ),
        (lambda: odf_to_sphere(torch.tensor([0.6, 0.6, -0.2])), "odf: .*not negative"),
        (lambda: odf_to_sphere(torch.tensor([0.5, math.nan])), "odf: got 0.5, nan.*finite"),
        (lambda: odf_to_sphere(torch.zeros(4), normalise=True), "one is positive"),
        (lambda: tensor_odf(-torch.eye(3), half_icosphere(1)), "tensors: got -1.*positive eigenvalues"),
        (lambda: tensor_odf(torch.eye(3), torch.ones(4, 3)), "axes: got 1, 1, 1.*unit vectors"),
        (lambda: tensor_odf(torch.eye(3), torch.ones(3)), "axes: got shape"),
        (lambda: crossing_bundles(0), "n: got 0"),
        (lambda: diffusion_scan("large"), "name: got 'large'"),
        (lambda: fit_diffusion_scan("a", "b", "c", sh_order=5), "sh_order: got 5"),
        (lambda: fit_diffusion_scan("a", "b", "c", model="dsi"), "model: got 'dsi'"),
    ],
)
def test_errors(make: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        make()


@pytest.mark.parametrize("name", ["tensor_odf", "odf_to_sphere", "sphere_to_odf", "odf_peaks"])
def test_voxels_do_not_depend_on_each_other(name: str) -> None:
    """Whatever the units of the others are, and on none."""
    axes, turn = half_icosphere(3, dtype=F64), torch.linalg.qr(torch.randn(3, 3, dtype=F64))[0]
    spd = turn @ torch.diag(torch.tensor([1.7, 0.3, 0.2], dtype=F64)) @ turn.mT
    odf = tensor_odf(spd, axes)
    f, one = {
        "tensor_odf": (lambda x: tensor_odf(x, axes), spd),
        "odf_to_sphere": (lambda x: odf_to_sphere(x, normalise=True), odf),
        "sphere_to_odf": (sphere_to_odf, odf.sqrt()),
        "odf_peaks": (lambda x: odf_peaks(x, axes), odf),
    }[name]
    many = f(torch.stack([one, 1e6 * one, 1e-6 * one]))
    torch.testing.assert_close(many, f(one).expand_as(many), rtol=1e-6, atol=1e-9)
    assert f(one.unsqueeze(0)[:0]).shape == (0, *f(one).shape)


def test_peaks_of_nothing() -> None:
    axes = half_icosphere(2)
    for value in (0.0, -1.0):
        assert torch.equal(odf_peaks(torch.full((21,), value), axes), torch.zeros(2, 3))
    assert torch.equal(odf_peaks(-torch.rand(21), axes), torch.zeros(2, 3))
    assert odf_peaks(torch.rand(21), half_icosphere(2, dtype=F64)).dtype == torch.float32


def test_peaks() -> None:
    """Of rotated pairs of fibres at 75 degrees, within 3.5 degrees on 181 axes; a sphere has none, one fibre one."""
    axes = half_icosphere(6, dtype=F64)
    torch.manual_seed(0)
    r = ROTATION.uniform_sample((20,), (3, 3), dtype=F64)
    angle = math.radians(75)
    u = torch.stack([r[..., 0], math.cos(angle) * r[..., 0] + math.sin(angle) * r[..., 1]], -2)
    d = 0.3 * torch.eye(3, dtype=F64) + 1.4 * u.unsqueeze(-1) * u.unsqueeze(-2)
    odf = 0.6 * tensor_odf(d[:, 0], axes) + 0.4 * tensor_odf(d[:, 1], axes)
    cos = (odf_peaks(odf, axes) * u).sum(-1).abs()
    assert float(torch.rad2deg(cos.clamp(max=1).acos()).max()) < 3.5
    one = odf_peaks(tensor_odf(d[:, 1], axes), axes)
    assert bool((one[:, 1] == 0).all()) and float((one[:, 0] * u[:, 1]).sum(-1).abs().min()) > math.cos(0.05)


# --- simulated fields
def test_tensors_do_not_tell_mirror_images_apart() -> None:
    """Without noise the tensors fitted to a crossing and to its mirror image differ by at most .02 um^2/ms, since the
    gradients are not quite evenly spread; noise alone moves an entry by .02 (sd), three times as much as the mirror. Their ODFs are far apart."""
    parts = sys.modules[crossing_bundles.__module__]  # the module that has the name of the function
    bundles = crossing_bundles(20, size=1, noise=0.0, odf_noise=0.0)
    directions_, weights = bundles.directions.double(), bundles.weights.double()
    fitted = [
        parts._fitted(parts._signals(u, weights, 0.0))
        for u in (directions_, parts._mirrored(directions_, weights))
    ]
    torch.testing.assert_close(fitted[0], fitted[1], atol=0.025, rtol=0)
    noisy = parts._fitted(parts._signals(directions_, weights, 0.03))
    assert float((noisy - fitted[0]).std()) > 0.018 > 2.5 * float((fitted[1] - fitted[0]).std())
    torch.testing.assert_close(bundles.tensors.double(), fitted[0], atol=1e-5, rtol=1e-5)
    assert float(SPHERE.dist(bundles.clean, bundles.mirrored).median()) > 0.08


def test_simulated_fields() -> None:
    a, b = crossing_bundles(3, size=4, seed=1), crossing_bundles(3, size=4, seed=1)
    assert all(torch.equal(s, t) for s, t in zip(a, b, strict=True))
    assert not torch.equal(a.odfs, crossing_bundles(3, size=4, seed=2).odfs)
    assert bool(geometry(geoopt.SymmetricPositiveDefinite()).contains(a.tensors).all())
    assert bool(SPHERE.contains(a.odfs).all())
    cos = (a.directions[..., 0, :] * a.directions[..., 1, :]).sum(-1)
    torch.testing.assert_close(cos, torch.full_like(cos, 0.5))
    radius = SPHERE.dist(a.clean, a.odfs)  # 45 coordinates of .01: .067, sd .007
    assert float(radius.mean()) == pytest.approx(0.067, abs=0.005)
    near = (a.directions[:, :, 1:, :, 0] * a.directions[:, :, :-1, :, 0]).sum(-1).abs()
    assert float(near.min()) > 0.6  # bundles bend


# --- scans
def test_voxels_of_a_scan() -> None:
    pytest.importorskip("dipy", reason="needs dipy: pip install pyro-manifold[dipy]")
    scan = diffusion_scan("small_101D")
    assert scan.tensors.shape == (6, 10, 10, 3, 3) and scan.odfs.shape == (6, 10, 10, 181)
    assert bool(scan.mask.all())
    assert bool(geometry(geoopt.SymmetricPositiveDefinite()).contains(scan.tensors).all())
    assert bool(SPHERE.contains(scan.odfs).all())
    # where a voxel is one bundle, both say which way it goes
    values, vectors = torch.linalg.eigh(scan.tensors)
    one = values[..., 2] > 2.5 * values[..., 1]
    peaks = odf_peaks(sphere_to_odf(scan.odfs[one]), scan.axes)[:, 0]
    assert int(one.sum()) > 20
    assert float((peaks * vectors[one][..., 2]).sum(-1).abs().median()) > math.cos(math.radians(12))


def test_own_files(tmp_path: Path) -> None:
    """Signals of known tensors, written as NIfTI: the tensors come back, and the ODFs point along them."""
    pytest.importorskip("dipy", reason="needs dipy: pip install pyro-manifold[dipy]")
    import nibabel
    import numpy as np

    torch.manual_seed(0)
    r = ROTATION.uniform_sample((2, 2, 1), (3, 3), dtype=F64)
    d = r @ torch.diag(torch.tensor([1.6, 0.4, 0.3], dtype=F64)) @ r.mT
    g = half_icosphere(4, dtype=F64)
    b = torch.cat([torch.zeros(1, dtype=F64), torch.full((len(g),), 1000.0, dtype=F64)])
    g = torch.cat([torch.zeros(1, 3, dtype=F64), g])
    signal = 500 * torch.exp(-b / 1000 * torch.einsum("ki,xyzij,kj->xyzk", g, d, g))
    files = [tmp_path / name for name in ("data.nii.gz", "bvals", "bvecs", "mask.nii.gz")]
    nibabel.save(nibabel.Nifti1Image(signal.float().numpy(), np.eye(4)), files[0])
    np.savetxt(files[1], b.numpy()[None])
    np.savetxt(files[2], g.numpy())
    inside = np.ones((2, 2, 1), dtype=np.int16)
    inside[0, 0, 0] = 0
    nibabel.save(nibabel.Nifti1Image(inside, np.eye(4)), files[3])
    scan = fit_diffusion_scan(*files[:3], mask=files[3])
    assert scan.mask.flatten().tolist() == [False, True, True, True]
    torch.testing.assert_close(scan.tensors[scan.mask].double(), d[scan.mask], atol=1e-3, rtol=0)
    peaks = odf_peaks(sphere_to_odf(scan.odfs[scan.mask]), scan.axes)[:, 0].double()
    assert float((peaks * r[scan.mask][..., 0]).sum(-1).abs().min()) > math.cos(math.radians(5))
    axes = half_icosphere(3)
    assert fit_diffusion_scan(*files[:3], axes=axes).odfs.shape == (2, 2, 1, 46)
    np.savetxt(files[1], b.numpy()[None, 1:])
    with pytest.raises(ValueError, match="data, bvals, bvecs: got shapes|bvecs"):
        fit_diffusion_scan(*files[:3])
    with pytest.raises(ValueError, match="bvals: there is no file"):
        fit_diffusion_scan(files[0], tmp_path / "none", files[2])
