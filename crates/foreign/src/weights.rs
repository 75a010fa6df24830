//! Which parameters of a recorded module are weights, and which are left as they are.

use std::collections::BTreeMap;
use std::fmt;

use burn_ir::{BaseOperationIr, OperationIr, TensorId, TensorIr};
use quench_nn::Role;

use crate::capture::Captured;
use crate::operator::{Operator, Orientation, Product, Views};

/// A parameter with more than one dimension that stays dense.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Left {
    /// Where it is in the module, `"positions"`.
    pub path: String,
    /// Why.
    pub reason: String,
}

impl fmt::Display for Left {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.path, self.reason)
    }
}

/// A parameter that is a weight.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Found {
    /// The path of the parameter.
    pub(crate) path: String,
    /// Without the last `.weight`.
    pub(crate) name: String,
    pub(crate) orientation: Orientation,
    pub(crate) dims: Vec<usize>,
    pub(crate) role: Role,
    /// The name of the first layer that reads the same inputs; nothing for a table, and what has no matrix of inputs.
    pub(crate) site: Option<String>,
}

/// What was found in a recording.
pub(crate) struct Weights {
    /// In the order in which they are first read.
    pub(crate) found: Vec<Found>,
    pub(crate) left: Vec<Left>,
    /// The products by the place of their operation, and the weight of each.
    pub(crate) products: BTreeMap<usize, (usize, Product)>,
}

impl Weights {
    pub(crate) fn of(captured: &Captured) -> Self {
        let mut uses: BTreeMap<TensorId, Uses> = BTreeMap::new();
        let mut views = Views::of(captured.parameters.iter().map(|(_, id)| *id));
        let mut roots = Roots::default();
        let needed = captured.needed(|_, operation| operation.inputs().map(|input| input.id).collect());
        for (at, operation) in captured.operations.iter().enumerate().filter(|(at, _)| needed[*at]) {
            roots.follow(operation);
            if views.follow(operation) {
                continue;
            }
            match views.product(operation) {
                Some(product) => {
                    let uses = uses.entry(product.parameter).or_default();
                    uses.inputs.push((roots.of(&product.x), product.operator.clone()));
                    uses.products.push((at, product));
                }
                None => {
                    for parameter in operation.inputs().filter_map(|input| views.parameter(input.id)) {
                        uses.entry(parameter).or_default().other.get_or_insert_with(|| name(operation));
                    }
                }
            }
        }
        let mut weights = Self { found: Vec::new(), left: Vec::new(), products: BTreeMap::new() };
        let mut candidates = Vec::new();
        for (path, id) in &captured.parameters {
            let Some(dims) = captured.values.get(id).map(|data| data.shape().to_vec()) else { continue };
            if dims.len() < 2 {
                continue;
            }
            match uses.remove(id).unwrap_or_default().checked(&dims) {
                Ok(uses) => candidates.push((path.clone(), dims, uses)),
                Err(reason) => weights.left.push(Left { path: path.clone(), reason }),
            }
        }
        candidates.sort_by_key(|(.., uses)| uses.products[0].0);
        let mut sites: Vec<(Inputs, String)> = Vec::new();
        for (path, dims, uses) in candidates {
            let name = path.strip_suffix(".weight").unwrap_or(&path).to_owned();
            let looked_up = uses.products.iter().any(|(_, product)| product.operator == Operator::Look);
            let site = uses.has_site().then(|| match sites.iter().find(|(inputs, _)| *inputs == uses.inputs) {
                Some((_, first)) => first.clone(),
                None => {
                    sites.push((uses.inputs.clone(), name.clone()));
                    name.clone()
                }
            });
            let orientation = uses.products[0].1.orientation;
            let role = if looked_up { Role::Embedding } else { Role::Block };
            let layer = weights.found.len();
            weights.products.extend(uses.products.into_iter().map(|(at, product)| (at, (layer, product))));
            weights.found.push(Found { path, name, orientation, dims, role, site });
        }
        weights
    }
}

/// Where the inputs of a layer come from, and how they are read, product by product.
type Inputs = Vec<(TensorId, Operator)>;

/// How a recording uses one parameter.
#[derive(Default)]
struct Uses {
    products: Vec<(usize, Product)>,
    inputs: Inputs,
    /// The first operation that is no product.
    other: Option<String>,
}

impl Uses {
    /// # Errors
    ///
    /// Why the parameter is no weight.
    fn checked(self, dims: &[usize]) -> Result<Self, String> {
        if let Some(other) = self.other {
            return Err(format!("is read by {other}, which is no product"));
        }
        let Some((_, first)) = self.products.first() else { return Err("has no part in the output".to_owned()) };
        if self.products.iter().any(|(_, product)| product.orientation != first.orientation) {
            return Err("is read as a matrix and as its transpose".to_owned());
        }
        let matrix = matches!(first.operator, Operator::Left | Operator::Right);
        if matrix && dims.len() != 2 {
            return Err(format!("is a stack of matrices, {dims:?}"));
        }
        Ok(self)
    }

    /// Whether all products are with inputs that a Gram matrix can be summed of.
    fn has_site(&self) -> bool {
        self.products.iter().all(|(_, product)| match product.operator {
            Operator::Left | Operator::Right | Operator::Convolve { .. } => true,
            Operator::Decoded { points, .. } => points,
            Operator::Look => false,
        })
    }
}

/// Tensors behind reshapes that keep the last dimension: their rows are the same.
#[derive(Default)]
struct Roots {
    known: BTreeMap<TensorId, TensorId>,
}

impl Roots {
    fn follow(&mut self, operation: &OperationIr) {
        if let OperationIr::BaseFloat(BaseOperationIr::Reshape(op)) = operation
            && op.input.shape.last() == op.out.shape.last()
        {
            let root = self.of(&op.input);
            self.known.insert(op.out.id, root);
        }
    }

    fn of(&self, tensor: &TensorIr) -> TensorId {
        self.known.get(&tensor.id).copied().unwrap_or(tensor.id)
    }
}

/// What an operation is called: `Add`.
fn name(operation: &OperationIr) -> String {
    let text = format!("{operation:?}");
    let head = text.split('{').next().unwrap_or_default();
    let words: Vec<&str> = head.split(['(', ',', ' ']).filter(|word| !word.is_empty()).collect();
    // The last word is the type of what the operation holds.
    words.iter().rev().nth(1).map_or_else(|| head.to_owned(), |word| (*word).to_owned())
}
