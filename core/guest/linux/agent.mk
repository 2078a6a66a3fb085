# thaw-agent: the agent for Linux guests, one small static program.

AGENT_DIR := core/guest/linux
# Without main(): what the unit tests link.
AGENT_PARTS := $(filter-out %/main.c,$(wildcard $(AGENT_DIR)/*.c))
AGENT_SRC := $(AGENT_PARTS) $(AGENT_DIR)/main.c \
	core/buf.c core/err.c core/loop.c core/mp.c core/util.c
AGENT := $(BUILD)/thaw-agent

$(AGENT): $(call obj,$(AGENT_SRC))
	$(call say,LD)
	$(Q)$(CC) $(LDFLAGS) -Wl,--gc-sections $^ -lmsgpackc -o $@.full
	$(Q)$(OBJCOPY) --strip-all $@.full $@

EXTRA_test_linux_exec := $(AGENT_PARTS) tests/unit/ta_rig.c
EXTRA_test_linux_handler := $(AGENT_PARTS) tests/unit/ta_rig.c
