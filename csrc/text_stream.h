// Output text of one sequence: cuts it at the first stop string, across token borders, and hands out complete UTF-8
// only.
//
// A stop string matches at the byte that completes it; of several completed by one byte the longest wins. So the result
// does not depend on how the text is split into tokens. Held back is only what may still become a stop string, and an
// incomplete code point at the end. Bytes that are no UTF-8 pass through.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace donabe {

class TextStream {
  public:
    explicit TextStream(const std::vector<std::string> & stops); // none of them empty

    // Append bytes and add to `out` what can be handed out. Returns the index of the stop string that matched (the text
    // before it is in `out`, the rest is dropped), or -1. With can_stop false a match is passed over.
    int32_t append(std::string_view bytes, bool can_stop, std::string & out);
    // Add everything held back to `out`.
    void flush(std::string & out);
    size_t n_held() const { return held_.size(); }

  private:
    // One stop string as a Knuth-Morris-Pratt automaton.
    struct Matcher {
        std::string text;
        std::vector<int32_t> border; // border[i]: length of the longest border of text[0, i)
        int32_t state = 0;           // bytes of `text` matched by the end of the stream

        void advance(char c);
        bool is_match() const { return state == static_cast<int32_t>(text.size()); }
    };

    int32_t longest_match() const;
    size_t longest_partial_match() const;

    std::vector<Matcher> matchers_;
    std::string held_;
};

// Length of the longest prefix of `bytes` that does not end inside a UTF-8 sequence which more bytes could complete.
size_t utf8_complete_length(std::string_view bytes);

} // namespace donabe
