"""All settings of the trainer, in sections: defaults, limits and help texts.

The defaults are plain and conventional. `pti.config.presets` has values for a family of models. `pti.config.toml_io`
reads and checks settings by the metadata of these fields, and writes the file of ``pti init``.
"""

from __future__ import annotations

from dataclasses import Field, dataclass, field, fields
from typing import Any

from pti.config.sections import (
    ConceptSection,
    DataSection,
    EvaluationSection,
    ExportSection,
    ModelSection,
    OutputSection,
    RuntimeSection,
    SamplerSection,
    ValidationSection,
)
from pti.config.training_sections import (
    ExperimentalSection,
    InversionSection,
    LocalitySection,
    LoraSection,
    LossSection,
    PriorPreservationSection,
)

__all__ = [
    "ConceptSection",
    "Config",
    "DataSection",
    "EvaluationSection",
    "ExperimentalSection",
    "ExportSection",
    "InversionSection",
    "LocalitySection",
    "LoraSection",
    "LossSection",
    "ModelSection",
    "OutputSection",
    "PriorPreservationSection",
    "RuntimeSection",
    "SamplerSection",
    "ValidationSection",
]


@dataclass(frozen=True, slots=True)
class Config:
    """All settings. `preset` names the preset that the values started from; "none" for the plain defaults."""

    preset: str = "none"
    model: ModelSection = field(default_factory=ModelSection)
    concept: ConceptSection = field(default_factory=ConceptSection)
    data: DataSection = field(default_factory=DataSection)
    loss: LossSection = field(default_factory=LossSection)
    inversion: InversionSection = field(default_factory=InversionSection)
    lora: LoraSection = field(default_factory=LoraSection)
    locality: LocalitySection = field(default_factory=LocalitySection)
    prior_preservation: PriorPreservationSection = field(default_factory=PriorPreservationSection)
    sampler: SamplerSection = field(default_factory=SamplerSection)
    validation: ValidationSection = field(default_factory=ValidationSection)
    evaluation: EvaluationSection = field(default_factory=EvaluationSection)
    export: ExportSection = field(default_factory=ExportSection)
    runtime: RuntimeSection = field(default_factory=RuntimeSection)
    output: OutputSection = field(default_factory=OutputSection)
    experimental: ExperimentalSection = field(default_factory=ExperimentalSection)

    @classmethod
    def sections(cls) -> tuple[Field[Any], ...]:
        """Return the fields that are sections, in order."""
        return tuple(f for f in fields(cls) if f.name != "preset")

    def flat(self) -> dict[str, Any]:
        """Return every value by its full name, such as ``lora.rank``."""
        return {
            f"{section.name}.{key.name}": getattr(getattr(self, section.name), key.name)
            for section in self.sections()
            for key in fields(getattr(self, section.name))
        }
