"""Maximum likelihood for single distributions: what :meth:`fit` of each family computes, and standard errors."""

from .errors import standard_errors

__all__ = ["standard_errors"]
