// Makes one kernel callable: SIMT_SOURCE is its file, SIMT_KERNEL its name with template arguments.
#include "device.hpp"
//
#include SIMT_SOURCE
//
#include <cstdio>
#include <utility>

namespace {

// What is not the kernel's own: its memory is no buffer of the launch.
#define SIMT_UNCHECKED __attribute__((no_sanitize("thread")))

/// What a field of a struct is initialised by.
struct Anything {
    template <class T>
    operator T() const;
};

template <class T, size_t... I>
constexpr auto has_fields(std::index_sequence<I...>)
    -> decltype(T{(void(I), std::declval<Anything>())...}, true) {
    return true;
}
template <class T>
constexpr bool has_fields(...) {
    return false;
}
template <class T, size_t N = 16>
constexpr size_t number_of_fields() {
    if constexpr (has_fields<T>(std::make_index_sequence<N>()))
        return N;
    else
        return number_of_fields<T, N - 1>();
}

/// One letter and a size: "f4" is a float, "*i8" a pointer to long long. A struct is its size and
/// its fields, "(16 *f4 i4 )".
template <class T>
SIMT_UNCHECKED void describe(char*& text);

template <class... Fields>
SIMT_UNCHECKED void describe_fields(char*& text, const Fields&...) {
    (describe<Fields>(text), ...);
}

template <class T>
SIMT_UNCHECKED void describe_struct(char*& text) {
    text += sprintf(text, "(%zu ", sizeof(T));
    const T x = {};
    if constexpr (number_of_fields<T>() == 4) {
        const auto& [a, b, c, d] = x;
        describe_fields(text, a, b, c, d);
    } else if constexpr (number_of_fields<T>() == 6) {
        const auto& [a, b, c, d, e, f] = x;
        describe_fields(text, a, b, c, d, e, f);
    } else if constexpr (number_of_fields<T>() == 7) {
        const auto& [a, b, c, d, e, f, g] = x;
        describe_fields(text, a, b, c, d, e, f, g);
    } else if constexpr (number_of_fields<T>() == 8) {
        const auto& [a, b, c, d, e, f, g, h] = x;
        describe_fields(text, a, b, c, d, e, f, g, h);
    } else {
        const auto& [a, b, c, d, e, f, g, h, i, j, k, l, m] = x;
        describe_fields(text, a, b, c, d, e, f, g, h, i, j, k, l, m);
    }
    text += sprintf(text, ") ");
}

template <class T>
SIMT_UNCHECKED void describe(char*& text) {
    if constexpr (std::is_pointer_v<T>) {
        *text++ = '*';
        describe<std::remove_cv_t<std::remove_pointer_t<T>>>(text);
    } else if constexpr (std::is_class_v<T>) {
        describe_struct<T>(text);
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
