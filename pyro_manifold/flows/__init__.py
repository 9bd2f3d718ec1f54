"""Learned maps: coupling and linear layers, conditional or not, and the flows made of them."""

from ..transforms.injective_flow import InjectiveFlow
from .actnorm import ActNorm
from .affine import Affine
from .autoregressive import Autoregressive
from .circular import CircularAutoregressive, CircularSpline
from .conditional import Conditional
from .continuous import ContinuousFlow
from .coupling import Coupling
from .factor_coupling import FactorCoupling
from .field_coupling import FieldCoupling
from .fields import FieldFlow, Squeeze
from .frame_flow import DirectionLift, FrameFlow
from .glow import glow_scales
from .group_action import ChannelMixing, GroupAction
from .in_chart import InChart
from .latent_flow import LatentDensity, LatentFlow, autoregressive_chain, coupling_chain
from .learned_embedding import LearnedEmbedding
from .linear import LULinear
from .local_frames import LocalFrames
from .local_quadrics import LocalQuadrics
from .multi_scale_field import MultiScaleField
from .multiscale import Haar, Partial, multiscale_layers
from .rotation_flow import HopfSpline, RotationFlow
from .special_conformal import SpecialConformal
from .sphere_flow import CylindricalSpline, SphereFlow
from .spline import Spline
from .torus_flow import TorusFlow

__all__ = [
    "ActNorm",
    "ChannelMixing",
    "FieldCoupling",
    "FieldFlow",
    "GroupAction",
    "MultiScaleField",
    "Squeeze",
    "glow_scales",
    "Affine",
    "Autoregressive",
    "Partial",
    "CircularAutoregressive",
    "CircularSpline",
    "Conditional",
    "ContinuousFlow",
    "Coupling",
    "CylindricalSpline",
    "DirectionLift",
    "FactorCoupling",
    "FrameFlow",
    "Haar",
    "HopfSpline",
    "InChart",
    "InjectiveFlow",
    "LULinear",
    "LocalFrames",
    "LocalQuadrics",
    "LatentDensity",
    "LatentFlow",
    "LearnedEmbedding",
    "RotationFlow",
    "SpecialConformal",
    "SphereFlow",
    "Spline",
    "TorusFlow",
    "autoregressive_chain",
    "coupling_chain",
    "multiscale_layers",
]
