"""Real diffusion MRI: tensors and orientation distribution functions of the voxels of a scan, fitted by dipy."""

import warnings
from pathlib import Path
from typing import Any, NamedTuple

import geoopt
import torch
from torch import Tensor

from ..geometry import geometry
from ..ops.arguments import checked
from .odf import odf_to_sphere

__all__ = ["ScanFields", "diffusion_scan", "fit_diffusion_scan"]

_SCANS = ("small_64D", "small_101D")
_LEAST = 0.02  # um^2 / ms: eigenvalues that noise has made smaller, or negative, are raised to that


class ScanFields(NamedTuple):
    """The voxels of a scan.

    :ivar Tensor tensors: positive definite, (X, Y, Z, 3, 3), in um^2/ms; the identity outside of the mask.
    :ivar Tensor odfs: square roots of probabilities of axes, points of :math:`S^{m-1}`, (X, Y, Z, m); uniform outside.
    :ivar Tensor mask: where there is tissue, (X, Y, Z), Boolean.
    :ivar Tensor axes: (m, 3).

    >>> ScanFields(*(torch.ones(1) for _ in range(4))).mask
    tensor([1.])
    """

    tensors: Tensor
    odfs: Tensor
    mask: Tensor
    axes: Tensor


def _dipy() -> Any:
    try:
        import dipy.core.gradients
        import dipy.data
        import dipy.io.image
        import dipy.reconst.dti
        import dipy.reconst.shm
        import dipy.reconst.shore
    except ImportError as error:
        raise ImportError(
            "tensors and ODFs of a scan are fitted by dipy, which also reads NIfTI files through nibabel: pip install "
            "dipy (extra pyro-manifold[dipy]). crossing_bundles() simulates voxels without it."
        ) from error
    return dipy


def diffusion_scan(name: str = "small_64D", **options: Any) -> ScanFields:
    r"""A piece of a human brain that the package dipy ships: ``"small_64D"``, 10 x 10 x 10 voxels with 64 gradient
    directions at b = 1000 s/mm^2, or ``"small_101D"``, 6 x 10 x 10 voxels with 101 gradients of many strengths up to
    4000 s/mm^2.

    :param str name: which.
    :param options: ``model``, ``axes``, ``sh_order``, see :func:`fit_diffusion_scan`.
    :raises ValueError: for another name.
    :raises ImportError: without dipy.

    Source: dipy's own test data, Garyfallidis et al., *Dipy*, Front. Neuroinform. 8 (2014).
    """
    if name not in _SCANS:
        raise ValueError(f"name: got {name!r}; expected one of {', '.join(map(repr, _SCANS))}.")
    data, bvals, bvecs = _dipy().data.get_fnames(name=name)
    return fit_diffusion_scan(data, bvals, bvecs, **options)


@checked(sh_order=2)
def fit_diffusion_scan(
    data: str | Path,
    bvals: str | Path,
    bvecs: str | Path,
    *,
    mask: str | Path | None = None,
    model: str = "auto",
    sh_order: int = 6,
    axes: Tensor | None = None,
) -> ScanFields:
    r"""Tensors and orientation distribution functions of the voxels of a scan of yours.

    Tensors are fitted by weighted least squares. ODFs are those of constant solid angle for one shell of gradients, of
    the SHORE basis (order ``sh_order``, :math:`\zeta` = 700, as in the paper) for several; values below 0 count as 0.

    :param data: a NIfTI file of four axes, the last those of the gradients.
    :param bvals: a text file of gradient strengths in s/mm^2.
    :param bvecs: a text file of gradient directions.
    :param mask: a NIfTI file, positive where there is tissue; where its signal without gradient exceeds a tenth of the
        largest, if omitted.
    :param str model: ``"csa"``, ``"shore"`` or ``"auto"``.
    :param int sh_order: of the spherical harmonics, even.
    :param Tensor axes: of the ODF, unit vectors (m, 3); those of dipy's sphere of 362 directions, 181, if omitted.
    :raises ValueError: for files that do not fit one another, or another model.
    :raises ImportError: without dipy.
    """
    if model not in ("auto", "csa", "shore"):
        raise ValueError(f"model: got {model!r}; expected 'csa', 'shore' or 'auto'.")
    if sh_order % 2:
        raise ValueError(f"sh_order: got {sh_order}; expected an even number, since an ODF is even.")
    dipy = _dipy()
    import numpy as np

    for name, file in (("data", data), ("bvals", bvals), ("bvecs", bvecs), ("mask", mask)):
        if file is not None and not Path(file).exists():
            raise ValueError(f"{name}: there is no file {str(file)!r}.")
    volume = np.asarray(dipy.io.image.load_nifti(str(data))[0], dtype=np.float64)
    try:
        b, g = dipy.io.read_bvals_bvecs(str(bvals), str(bvecs))
    except OSError as error:
        raise ValueError(
            f"bvals, bvecs: {error}; expected text files of k strengths and of k directions, of three numbers each."
        ) from error
    if volume.ndim != 4 or volume.shape[-1] != len(b) or len(b) != len(g):
        raise ValueError(
            f"data, bvals, bvecs: got shapes {volume.shape}, {np.shape(b)} and {np.shape(g)}; expected (X, Y, Z, k), "
            "(k,) and (k, 3) with the same k."
        )
    gradients = dipy.core.gradients.gradient_table(b, bvecs=g)
    weak = gradients.b0s_mask
    if not weak.any():
        raise ValueError("bvals: none is about 0; expected at least one volume without gradient.")
    level = volume[..., weak].mean(-1)
    inside = level > 0.1 * level.max()
    if mask is not None:
        inside = inside & (dipy.io.image.load_nifti(str(mask))[0] > 0)
    if not inside.any():
        raise ValueError("mask: it leaves no voxel; expected a mask that is positive where there is tissue.")
    if axes is None:
        axes = torch.from_numpy(dipy.data.get_sphere(name="symmetric362").vertices[:181].copy())
    directions = dipy.core.sphere.Sphere(xyz=axes.double().numpy())
    signals = np.clip(volume[inside], 1e-3 * level.max(), None)
    quadratic = dipy.reconst.dti.TensorModel(gradients).fit(signals).quadratic_form * 1000
    shells = np.unique(np.round(b[~weak], -2))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PendingDeprecationWarning)  # of a basis that dipy itself still uses
        if model == "shore" or (model == "auto" and len(shells) > 1):
            fit = dipy.reconst.shore.ShoreModel(
                gradients, radial_order=sh_order, zeta=700, lambdaN=1e-8, lambdaL=1e-8
            )
        else:
            fit = dipy.reconst.shm.CsaOdfModel(gradients, sh_order_max=sh_order)
        odf = torch.from_numpy(np.stack([fit.fit(s).odf(directions) for s in signals]))
    return _fields(torch.from_numpy(quadratic), odf, torch.from_numpy(inside), axes.double())


def _fields(tensors: Tensor, odf: Tensor, mask: Tensor, axes: Tensor) -> ScanFields:
    values, vectors = torch.linalg.eigh(0.5 * (tensors + tensors.mT))
    tensors = (vectors * values.clamp_min(_LEAST).unsqueeze(-2)) @ vectors.mT
    fields = torch.eye(3, dtype=torch.float64).repeat(*mask.shape, 1, 1)
    fields[mask] = 0.5 * (tensors + tensors.mT)
    points = torch.full((*mask.shape, len(axes)), len(axes) ** -0.5, dtype=torch.float64)
    points[mask] = geometry(geoopt.Sphere()).project(odf_to_sphere(odf, normalise=True))
    dtype = torch.get_default_dtype()
    points = geometry(geoopt.Sphere()).project(points.to(dtype))
    return ScanFields(fields.to(dtype), points, mask, axes.to(dtype))
