// Whether this library can run on the current card.
#pragma once

#include <string>

namespace loginmea {

// Empty, or why not: a driver older than the runtime that this library was built with, or a card that it was not built
// for. Nothing is launched.
std::string card_reason();

}  // namespace loginmea
