#include "render_budget.h"

#include <algorithm>
#include <string>

#include "base/errors.h"

namespace donabe {

// Some ten times what the busiest vendored templates need: 16,000 steps, 1.4 MB of text and 300 lists for one message;
// with 400 messages of 1 kB 3,500 steps and 9 lists each, 73 bytes per byte, and in one template that builds its text
// by appending 8 more per message. A list inside a list is destroyed recursively, so their number is bounded for good.
RenderBudget::RenderBudget(size_t n_messages, size_t n_input_bytes) : previous_(jinja::limits_of_thread()) {
    limits_.steps = 4'000'000 + 20'000 * n_messages + 16 * n_input_bytes;
    limits_.bytes = (size_t(128) << 20) + (1024 + 16 * n_messages) * n_input_bytes;
    limits_.containers = std::min<size_t>(20'000 + 16 * n_messages, 32'000);
    limits_.depth = 1000; // levels of under 3 kB of stack each
    limits_.deadline =
        std::chrono::steady_clock::now() + std::chrono::milliseconds(5'000 + 25 * std::min<size_t>(n_messages, 1'000));
    jinja::limits_of_thread() = &limits_;
}

RenderBudget::~RenderBudget() {
    jinja::limits_of_thread() = previous_;
}

void RenderBudget::require_kept() const {
    if (limits_.exceeded != nullptr) {
        throw Error(ErrorCode::chat_template, std::string("the chat template was stopped: ") + limits_.exceeded,
                    "use another template for this model");
    }
}

} // namespace donabe
