/* The guest's image inside the executables. GUEST_ELF comes from guest.mk. */
	.section .rodata, "a", @progbits
	.p2align 4
	.globl guest_builtin_start, guest_builtin_end
guest_builtin_start:
	.incbin GUEST_ELF
guest_builtin_end:

	.section .note.GNU-stack, "", @progbits
