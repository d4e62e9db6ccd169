/*
 * What the bochscpu extension module needs from outside of it; compiled at test time, loaded before the import.
 *
 * The published module was linked against glibc 2.38, which gave strtoull and sscanf new names (for C23's binary
 * constants). Older glibcs have the same functions under the old names only. This file is compiled as C17: as C23,
 * these functions would call themselves.
 */
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

unsigned long long __isoc23_strtoull(const char *text, char **end, int base)
{
    return strtoull(text, end, base);
}

int __isoc23_sscanf(const char *text, const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    int converted = vsscanf(text, format, arguments);
    va_end(arguments);
    return converted;
}

/*
 * bx_pc_system_c::get_enable_a20(). VMXON asks whether address line 20 is open, but bochscpu has no chipset to ask
 * and answers with assert(false). The call goes through the dynamic symbol table, so the first definition wins.
 */
bool _ZN14bx_pc_system_c14get_enable_a20Ev(void)
{
    return true;
}

/*
 * BX_CPU_C::allow_io(bxInstruction_c *, Bit16u, unsigned). In a VMX guest it follows a null pointer. There are no
 * ports here: every I/O instruction becomes a general-protection fault.
 */
bool _ZN8BX_CPU_C8allow_ioEP15bxInstruction_ctj(void)
{
    return false;
}
