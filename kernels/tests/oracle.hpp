// The equations of adapters_store/folding.py as they stand there, in double and with plain loops.
#pragma once

#include <cstdint>
#include <vector>

#include "adapter.hpp"
#include "branch.hpp"
#include "gather.hpp"
#include "network.hpp"

namespace oracle {

using Row = std::vector<double>;

// The inputs of one row, fields in the manifest's order.
Row inputs(const std::vector<espalier::FieldSpec>& fields, const std::vector<espalier::Column>& columns,
           std::int64_t row);

// The logit of one row, before calibration; weights and biases of a module's own stand for the layer's.
double logit(Row x, const std::vector<espalier::LayerSpec>& layers, const espalier::OutputSpec& output,
             const std::vector<espalier::ModuleSpec>& modules);

// What stands beside the tower adds to the logit of one row with these inputs.
double beside(const Row& x, const espalier::BranchSpec& branch, const std::vector<espalier::FieldSpec>& fields,
              const std::vector<espalier::Column>& columns, std::int64_t row);

}  // namespace oracle
