# The built-in guest: an ELF kernel of its own, embedded as $(BUILD)/guest.o.
#
# Its code is freestanding and has flags of its own: no FORTIFY, no sanitizer,
# no stack protector, whatever the host side is built with.

GUEST_DIR := core/guest
GUEST_BASE := main virtio vsock gmp agent lib drbg fnapi heap clock crash
GUEST_FN := fn_builtin fn_text fn_load fn_end fn_net sha256 text
GUEST_CFLAGS := -std=gnu17 -Os -g -DTHAW_GUEST=1 -I. -ffreestanding -nostdlib \
	-mno-red-zone -fno-stack-protector -fno-pic -fno-pie -mcmodel=small \
	-fcf-protection=none -fno-asynchronous-unwind-tables \
	-fno-unwind-tables -fno-strict-aliasing \
	-fno-stack-clash-protection -U_FORTIFY_SOURCE $(WARN) $(WERROR)
# Work on data, not on the way to every answer: speed counts more than size.
GUEST_FAST := fn_text fn_load sha256 text
GUEST_LDFLAGS := -nostdlib -static -Wl,--build-id=none \
	-Wl,-T,$(GUEST_DIR)/guest.ld -Wl,-z,noexecstack \
	-Wl,-z,max-page-size=4096

guest_obj = $(patsubst %,$(BUILD)/guest/%.o,$(1))

$(BUILD)/guest/%.o: $(GUEST_DIR)/%.c
	$(call say,CC)
	@mkdir -p $(@D)
	$(Q)$(CC) $(GUEST_CFLAGS) -MMD -MP -c $< -o $@
$(call guest_obj,$(GUEST_FAST)): GUEST_CFLAGS += -O2

$(BUILD)/guest/boot.o: $(GUEST_DIR)/boot.S $(GUEST_DIR)/boot.h
	$(call say,AS)
	@mkdir -p $(@D)
	$(Q)$(CC) -I. -fno-pic -c $< -o $@

$(BUILD)/guest.elf: $(call guest_obj,boot $(GUEST_BASE) $(GUEST_FN)) \
		$(GUEST_DIR)/guest.ld
	$(call say,LD)
	$(Q)$(CC) $(GUEST_LDFLAGS) $(filter %.o,$^) -o $@.full
	$(Q)$(OBJCOPY) --strip-debug $@.full $@

$(BUILD)/guest.o: $(GUEST_DIR)/embed.S $(BUILD)/guest.elf
	$(call say,AS)
	$(Q)$(CC) -DGUEST_ELF='"$(BUILD)/guest.elf"' -c $< -o $@

# A user's own function instead of the built-in ones: docs/functions.md.
OUT ?= $(BUILD)/fn.elf
# Warnings, not errors, for other people's code.
USER_WARN := -Wno-error -Wno-conversion -Wno-sign-conversion -Wno-pedantic
.PHONY: function
function: $(call guest_obj,boot $(GUEST_BASE) fn_weak) $(GUEST_DIR)/guest.ld ## a guest from your function: SRC=fn.c [OUT=fn.elf]
	@test -n "$(SRC)" || { echo "usage: make function SRC=fn.c [OUT=fn.elf]" >&2; exit 2; }
	@mkdir -p $(dir $(OUT))
	$(Q)$(CC) $(GUEST_CFLAGS) -O2 $(USER_WARN) -c $(SRC) -o $(OUT).o
	$(Q)$(CC) $(GUEST_LDFLAGS) $(filter %.o,$^) $(OUT).o -o $(OUT).full
	$(Q)$(OBJCOPY) --strip-debug $(OUT).full $(OUT)
	@rm -f $(OUT).o $(OUT).full
	@echo "$(OUT): thaw template create NAME --kernel $(OUT)"

# Guest code that unit tests run on the host, with the host's flags.
EXTRA_test_guest_gmp := core/guest/gmp.c
EXTRA_test_guest_text := core/guest/text.c core/guest/sha256.c core/guest/lib.c
EXTRA_test_guest_drbg := core/guest/drbg.c core/guest/lib.c
EXTRA_test_guest_agent := $(patsubst %,core/guest/%.c,virtio vsock gmp agent \
	lib drbg fnapi heap clock fn_builtin fn_text fn_load fn_net fn_end \
	sha256 text)
