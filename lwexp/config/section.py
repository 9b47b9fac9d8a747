"""A part of the config, closed or open, and the kinds of numbers in it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
Workers = Annotated[int, Field(ge=0)] | Literal["auto"]


class Section(BaseModel):
    """A closed part of the config: an unknown key is an error, no value is converted silently."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, protected_namespaces=(), populate_by_name=True)


class OpenSection(Section):
    """A part whose other keys are keyword arguments of what `name` or `_target_` names."""

    model_config = ConfigDict(extra="allow")

    name: str | None = None
    target: str | None = Field(default=None, alias="_target_")

    @property
    def options(self) -> dict[str, Any]:
        """The keys besides `name` and `_target_`."""
        return dict(self.model_extra or {})
