// Makes one kernel callable: SIMT_SOURCE is its file, SIMT_KERNEL its name with template arguments.
#include "device.hpp"
//
#include SIMT_SOURCE
//
#include <utility>

namespace {

// What is not the kernel's own: its memory is no buffer of the launch.
#define SIMT_UNCHECKED __attribute__((no_sanitize("thread")))

/// One letter and a size: "f4" is a float, "*i8" a pointer to long long.
template <class T>
SIMT_UNCHECKED void describe(char*& text) {
    if constexpr (std::is_pointer_v<T>) {
        *text++ = '*';
        describe<std::remove_cv_t<std::remove_pointer_t<T>>>(text);
    } else {
        *text++ = std::is_floating_point_v<T> ? 'f' : std::is_signed_v<T> ? 'i' : 'u';
        *text++ = char('0' + sizeof(T));
        *text++ = ' ';
    }
}

template <class... Parameters>
SIMT_UNCHECKED void describe_all(void (*)(Parameters...), char* text) {
    (describe<Parameters>(text), ...);
    *text = 0;
}

template <class... Parameters, size_t... I>
SIMT_UNCHECKED void call(void (*kernel)(Parameters...), void** arguments,
                         std::index_sequence<I...>) {
    kernel(*static_cast<Parameters*>(arguments[I])...);
}

template <class... Parameters>
void call_all(void (*kernel)(Parameters...), void** arguments) {
    call(kernel, arguments, std::index_sequence_for<Parameters...>());
}

}  // namespace

// Where this library starts, and the part of it that can be written to, by the linker.
extern "C" __attribute__((visibility("hidden"))) char __ehdr_start[], __bss_start[], _end[];

extern "C" SIMT_UNCHECKED void simt_describe(char* text) { describe_all(&SIMT_KERNEL, text); }
extern "C" SIMT_UNCHECKED void simt_call(void** arguments) { call_all(&SIMT_KERNEL, arguments); }
extern "C" SIMT_UNCHECKED void simt_image(char** image) {
    image[0] = __ehdr_start;
    image[1] = __bss_start;
    image[2] = _end;
}
