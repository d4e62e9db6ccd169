# Probes of page tables, one VM entry each.
#
# The loop runs in VMX root operation, in long mode, on page tables of its own (the harness's frames one to one). For
# each record of a list it sets up the guest, enters it, and stores why the guest left. The guest makes one access:
# - a load or a store by a routine of the guest's page below, ended by HLT (basic exit reason 12), or
# - an instruction fetch: RIP is the address under test, and the monitor trap flag ends it after one instruction.
# Without EPT the guest's CR3 names the tables under test, with EPT the EPT pointer does, or both. No VPID is used:
# each VM entry and exit empties the TLB, so every probe is a cold walk (INVEPT is for good order).
#
# On entry: %rdi = mailbox. The code is position-independent and keeps no data in its own page.

# The mailbox, 8 bytes each.
.set FIELD_COUNT,    0      # VMCS fields to write once
.set FIELDS,         8      # their address: pairs of (encoding, value)
.set PROBE_COUNT,   16
.set PROBES,        24      # address of the records
.set VMXON_REGION,  32
.set VMCS_REGION,   40
.set STATUS,        48      # how far the loop came; FINISHED at the end
.set DETAIL,        56      # the VMX instruction error, or the encoding of the refused field
.set INVEPT_ALL,    64      # a descriptor of 16 bytes, all 0
.set LAUNCHED,      80      # 0: the next entry is VMLAUNCH

# A record: eight words in, eight words out.
.set IN_PTE_AT,      0      # address of a word to set first: the PTE of the guest's window, or a spare word
.set IN_PTE,         8
.set IN_EPTP,       16
.set IN_CR3,        24
.set IN_RIP,        32
.set IN_ADDRESS,    40      # %rsi of the guest
.set IN_VALUE,      48      # its %rax; the upper half also in %edx
.set IN_CONTROLS,   56      # primary processor-based controls
.set OUT_REASON,    64
.set OUT_QUALIFIER, 72
.set OUT_GPA,       80
.set OUT_RAX,       88
.set OUT_RDX,       96
.set OUT_EVENT,    104
.set OUT_ERROR,    112
.set OUT_LINEAR,   120
.set RECORD,       128

# Statuses.
.set STARTED,        1
.set VMX_ON,         2
.set VMCS_LOADED,    3
.set FIELDS_WRITTEN, 4
.set FINISHED,       5

# VMCS encodings (Intel SDM vol. 3, appendix B).
.set CONTROLS,          0x4002
.set EPTP,              0x201a
.set GUEST_CR3,         0x6802
.set GUEST_RIP,         0x681e
.set HOST_RSP,          0x6c14
.set HOST_RIP,          0x6c16
.set INSTRUCTION_ERROR, 0x4400
.set EXIT_REASON,       0x4402
.set EVENT,             0x4404
.set EVENT_ERROR,       0x4406
.set EXIT_QUALIFIER,    0x6400
.set GUEST_LINEAR,      0x640a
.set GUEST_PHYSICAL,    0x2400

.set FEATURE_CONTROL, 0x3a  # MSR; bit 0 locks it, bit 2 permits VMXON
.set NOWHERE, 1 << 62       # in no canonical half: a stray access through it faults

.code64
.globl _start
_start:
        movq    %rdi, %r12
        movq    $STARTED, STATUS(%r12)
        movl    $FEATURE_CONTROL, %ecx
        movl    $5, %eax
        xorl    %edx, %edx
        wrmsr
        vmxon   VMXON_REGION(%r12)
        jbe     stop
        movq    $VMX_ON, STATUS(%r12)
        vmclear VMCS_REGION(%r12)
        jbe     stop
        vmptrld VMCS_REGION(%r12)
        jbe     stop
        movq    $VMCS_LOADED, STATUS(%r12)

        # The fields that stay: host state, most of the guest's, the controls.
        movq    FIELDS(%r12), %rsi
        movq    FIELD_COUNT(%r12), %rcx
1:      movq    (%rsi), %rax
        movq    8(%rsi), %rbx
        vmwrite %rbx, %rax
        jbe     refused
        addq    $16, %rsi
        decq    %rcx
        jnz     1b
        movl    $HOST_RIP, %eax
        leaq    left(%rip), %rbx
        vmwrite %rbx, %rax
        movl    $HOST_RSP, %eax
        vmwrite %rsp, %rax
        movq    $FIELDS_WRITTEN, STATUS(%r12)

        movq    PROBE_COUNT(%r12), %r15
        movq    PROBES(%r12), %r14

next:   testq   %r15, %r15
        jz      finished
        movq    IN_PTE_AT(%r14), %rax
        movq    IN_PTE(%r14), %rbx
        movq    %rbx, (%rax)
        movl    $EPTP, %eax
        vmwrite IN_EPTP(%r14), %rax
        jbe     refused
        movl    $GUEST_CR3, %eax
        vmwrite IN_CR3(%r14), %rax
        jbe     refused
        movl    $GUEST_RIP, %eax
        vmwrite IN_RIP(%r14), %rax
        jbe     refused
        movl    $CONTROLS, %eax
        vmwrite IN_CONTROLS(%r14), %rax
        jbe     refused
        movl    $2, %eax                    # all contexts
        invept  INVEPT_ALL(%r12), %rax

        # The guest finds its operands in %rsi, %rax and %edx, and nothing of use in what else an instruction of one
        # byte could address through.
        movq    IN_ADDRESS(%r14), %rsi
        movq    IN_VALUE(%r14), %rax
        movq    %rax, %rdx
        shrq    $32, %rdx
        movabsq $NOWHERE, %rbx
        movq    %rbx, %rcx
        movq    %rbx, %rdi
        movq    %rbx, %rbp
        cmpq    $0, LAUNCHED(%r12)
        jne     2f
        movq    $1, LAUNCHED(%r12)
        vmlaunch
        jmp     stop
2:      vmresume
        jmp     stop

left:   movq    %rax, OUT_RAX(%r14)
        movq    %rdx, OUT_RDX(%r14)
        movl    $EXIT_REASON, %eax
        vmread  %rax, OUT_REASON(%r14)
        movl    $EXIT_QUALIFIER, %eax
        vmread  %rax, OUT_QUALIFIER(%r14)
        movl    $GUEST_PHYSICAL, %eax
        vmread  %rax, OUT_GPA(%r14)
        movl    $EVENT, %eax
        vmread  %rax, OUT_EVENT(%r14)
        movl    $EVENT_ERROR, %eax
        vmread  %rax, OUT_ERROR(%r14)
        movl    $GUEST_LINEAR, %eax
        vmread  %rax, OUT_LINEAR(%r14)
        addq    $RECORD, %r14
        decq    %r15
        jmp     next

refused:
        movq    %rax, DETAIL(%r12)
        hlt
stop:   movl    $INSTRUCTION_ERROR, %eax
        vmread  %rax, DETAIL(%r12)
        hlt
finished:
        movq    $FINISHED, STATUS(%r12)
        hlt

# The guest's page. The 32-bit routines go through %fs, the only data segment that a 32-bit guest can use: an
# instruction that a fetch probe happens upon reaches no memory.
        .org    0x1000
load_64:
        movq    (%rsi), %rax
        movq    %rax, %rdx
        shrq    $32, %rdx
        hlt
        .org    0x1020
store_64:
        movq    %rax, (%rsi)
        hlt
.code32
        .org    0x1040
load_32:
        movl    %fs:(%esi), %eax
        movl    %fs:4(%esi), %edx
        hlt
        .org    0x1060
store_32:
        movl    %eax, %fs:(%esi)
        movl    %edx, %fs:4(%esi)
        hlt
        .org    0x2000
