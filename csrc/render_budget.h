// Bounds what the calling thread may render while it lives: templates come with models, and models from anywhere.
// Relies on patch 0004; llama.cpp's template engine has no bounds of its own, and swallows errors where it tries things
// out, so callers ask require_kept() afterwards.
#pragma once

#include <cstddef>

#include "jinja/render-limits.h"

namespace donabe {

class RenderBudget {
  public:
    RenderBudget(size_t n_messages, size_t n_input_bytes); // what is rendered, tools and schema included
    ~RenderBudget();
    RenderBudget(const RenderBudget &) = delete;
    RenderBudget & operator=(const RenderBudget &) = delete;

    void require_kept() const; // throws chat_template when anything ran over

  private:
    jinja::limits limits_;
    jinja::limits * previous_;
};

} // namespace donabe
