//! What will be done, layer by layer.

use quench_nn::{LayerInfo, Role};
use serde::{Deserialize, Serialize};

use crate::quantizer::{Method, ScaleSearch};
use crate::recipe::{Action, Recipe, Transform, matches};
use crate::{QuantizeError, Target, text};

/// What will be done to every layer: printable, editable, and saved beside the model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// The recipe that it came from.
    pub recipe: String,
    /// What is done to the network before, in this order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub transforms: Vec<Transform>,
    /// Whether layers are calibrated on what the quantized layers before them in the same block give.
    #[serde(default)]
    pub sequential: bool,
    /// Every layer of the model in order.
    pub layers: Vec<Planned>,
}

/// One layer of a plan.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Planned {
    /// The layer's Hugging Face name without `.weight`.
    pub name: String,
    /// `[out, in]`.
    pub shape: [usize; 2],
    /// What is done; nothing for a layer that stays dense.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub treatment: Option<Treatment>,
}

/// How one layer is quantized.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Treatment {
    /// One target per stage; more than one is a cascade. A curvature that is left open is found for the layer, and stands
    /// in the ledger.
    #[serde(with = "text::list")]
    pub stages: Vec<Target>,
    /// The quantizer of every stage.
    pub method: Method,
}

impl Recipe {
    /// Decides about every layer: the first rule that matches, unless the layer is an end that is kept. The plan has all
    /// transforms of the recipe, whether they apply to the model or not.
    ///
    /// # Errors
    /// [`QuantizeError::RuleMatchesNothing`] for a rule that matches no layer at all.
    pub fn plan(&self, layers: &[LayerInfo]) -> Result<Plan, QuantizeError> {
        for (index, rule) in self.rules.iter().enumerate() {
            if !layers.iter().any(|layer| matches(&rule.layers, &layer.name)) {
                return Err(QuantizeError::RuleMatchesNothing {
                    rule: index + 1,
                    pattern: rule.layers.clone(),
                    examples: layers.iter().take(3).map(|layer| layer.name.clone()).collect(),
                });
            }
        }
        let planned = layers.iter().map(|layer| Planned {
            name: layer.name.clone(),
            shape: layer.shape,
            treatment: self.treatment(layer),
        });
        Ok(Plan {
            recipe: self.name.clone(),
            transforms: self.transforms.clone(),
            sequential: self.calibration.sequential,
            layers: planned.collect(),
        })
    }

    fn treatment(&self, layer: &LayerInfo) -> Option<Treatment> {
        let kept = match layer.role {
            Role::Block => false,
            Role::Embedding => self.keep.embeddings,
            Role::Head => self.keep.head,
        };
        let rule = self.rules.iter().find(|rule| matches(&rule.layers, &layer.name))?;
        let code = rule.code.filter(|_| rule.action == Action::Quantize && !kept)?;
        let method = match rule.method() {
            // A table is looked up, not multiplied: it has no inputs that errors could be weighed by.
            Method::Rtn { search, .. } | Method::Gptq { search, .. } if layer.site.is_empty() => {
                let search = if search == ScaleSearch::Gram { ScaleSearch::Mse } else { search };
                Method::rtn(search)
            }
            method => method,
        };
        Some(Treatment { stages: rule.stages(code), method })
    }
}

impl Plan {
    /// Reads a plan from TOML, as `quench quantize --plan` takes it after editing.
    ///
    /// # Errors
    /// [`QuantizeError::Recipe`] with the line and, for an unknown key, the nearest valid one.
    pub fn from_toml(source: &str) -> Result<Self, QuantizeError> {
        text::from_toml(source)
    }

    /// The plan as TOML.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).unwrap_or_else(|error| unreachable!("a plan is plain data: {error}"))
    }

    /// Checks that the plan speaks of exactly the layers of this model.
    ///
    /// # Errors
    /// [`QuantizeError::Plan`] for a layer that is missing, unknown, or of another shape.
    pub fn check(&self, layers: &[LayerInfo]) -> Result<(), QuantizeError> {
        let fault = |layer: &str, reason: String| Err(QuantizeError::Plan { layer: layer.to_owned(), reason });
        for planned in &self.layers {
            match layers.iter().find(|layer| layer.name == planned.name) {
                None => return fault(&planned.name, "this model has no such layer".into()),
                Some(layer) if layer.shape != planned.shape => {
                    return fault(
                        &planned.name,
                        format!("is {:?} in the plan and {:?} in the model", planned.shape, layer.shape),
                    );
                }
                Some(_) => {}
            }
            let Some(Treatment { stages, method }) = &planned.treatment else { continue };
            if stages.is_empty() {
                return fault(&planned.name, "has no stages; remove its treatment to keep it dense".into());
            }
            let fits = |target: &Target| method.check(*target).and_then(|()| target.check_shape(planned.shape));
            if let Err(reason) = stages.iter().try_for_each(fits) {
                return fault(&planned.name, reason);
            }
        }
        match layers.iter().find(|layer| self.layers.iter().all(|planned| planned.name != layer.name)) {
            Some(layer) => fault(&layer.name, "is missing from the plan".into()),
            None => Ok(()),
        }
    }

    /// What is done to `layer`, if anything.
    pub fn treatment(&self, layer: &str) -> Option<&Treatment> {
        self.layers.iter().find(|planned| planned.name == layer)?.treatment.as_ref()
    }

    /// Stages of the longest cascade: 1 for direct quantization, 0 if every layer stays dense.
    pub fn stages(&self) -> usize {
        self.layers.iter().filter_map(|planned| planned.treatment.as_ref()).map(|t| t.stages.len()).max().unwrap_or(0)
    }
}
