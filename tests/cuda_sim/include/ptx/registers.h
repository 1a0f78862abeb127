/* PTX registers: 16, 32 or 64 bits without a type, as each instruction says how it reads them. */
#ifndef CUDA_SIM_PTX_REGISTERS_H
#define CUDA_SIM_PTX_REGISTERS_H

#include <cstdint>
#include <type_traits>

#include "../cuda_sim/math.h"

namespace ptx
{

using b16 = uint16_t;
using b32 = uint32_t;
using b64 = uint64_t;
using u8 = uint8_t;
using u16 = uint16_t;
using u32 = uint32_t;
using u64 = uint64_t;
using s8 = int8_t;
using s16 = int16_t;
using s32 = int32_t;
using s64 = int64_t;
using b8 = uint8_t;
using f32 = float;
using f64 = double;
using pred = bool;

using cuda_sim::bit_cast;

/* The integer type of a type's width. */
template <typename T>
using Bits = std::conditional_t<sizeof(T) == 8, b64,
                                std::conditional_t<sizeof(T) == 4, b32, std::conditional_t<sizeof(T) == 2, b16, b8>>>;

/* A register as an operand: it becomes whatever type of its width the instruction reads. Only 8-bit types may be
 * narrower, as there are no registers of 8 bits. */
template <typename Register> struct In {
    Register bits;
    template <typename T> operator T() const
    {
        static_assert(sizeof(T) == sizeof(Register) || (sizeof(T) == 1 && std::is_integral_v<T>),
                      "an instruction reads a register of another width");
        if constexpr (sizeof(T) == sizeof(Register))
            return bit_cast<T>(bits);
        else
            return T(bits);
    }
};
template <typename Register> In<Register> in(Register bits) { return {bits}; }

/* An integer constant fits any integer type, as in PTX. */
struct Constant {
    int64_t value;
    template <typename T> operator T() const
    {
        static_assert(std::is_integral_v<T>, "an integer constant for an instruction on floats");
        return T(value);
    }
};

/* A store takes the low bits of a wider register. */
template <typename T, typename Register> T stored(In<Register> value)
{
    if constexpr (sizeof(T) < sizeof(Register))
        return bit_cast<T>(Bits<T>(value.bits));
    else
        return value;
}
template <typename T> T stored(Constant value) { return value; }

/* A result as the bits of its register. A narrower integer is extended by its own sign. */
template <typename Register, typename T> Register out(T value)
{
    if constexpr (sizeof(T) == sizeof(Register)) {
        return bit_cast<Register>(value);
    } else {
        static_assert(std::is_integral_v<T> && sizeof(T) < sizeof(Register) && !std::is_same_v<T, bool>,
                      "an instruction writes a register of another width");
        return Register(value);
    }
}

} // namespace ptx

#endif
