# Tests: every test_*.c is an executable, every tests/e2e/test_* a script, and
# tests/run.sh runs them all. Folders: unit (no KVM), kvm, e2e, linux, fuzz.

TEST_LIBS = $(BUILD)/libthaw.a $(BASE_LIB)

UNIT_BIN := $(call obj,$(wildcard tests/unit/test_*.c))
UNIT_BIN := $(UNIT_BIN:.o=)
KVM_BIN := $(call obj,$(wildcard tests/kvm/test_*.c))
KVM_BIN := $(KVM_BIN:.o=)
FUZZ_BIN := $(call obj,$(wildcard tests/fuzz/fuzz_*.c))
FUZZ_BIN := $(FUZZ_BIN:.o=)
# With stock Linux guests; they see themselves to a KVM that can run those.
LINUX := $(sort $(wildcard tests/linux/test_*.py))
E2E := $(sort $(wildcard tests/e2e/test_*.py))
# Scripts about the project itself, which need no KVM.
SCRIPTS := $(sort $(wildcard tests/e2e/test_*.sh))

# Files beside the tests that are not tests are helpers: an archive, so that a
# test gets those it uses and may have its own version of the others' names.
helpers = $(call obj,$(filter-out $(wildcard tests/$(1)/test_*.c),$(wildcard tests/$(1)/*.c)))
UNIT_HELP := $(BUILD)/tests/unit/helpers.a
KVM_HELP := $(BUILD)/tests/kvm/helpers.a
$(UNIT_HELP): $(call helpers,unit)
$(KVM_HELP): $(call helpers,kvm)
$(UNIT_HELP) $(KVM_HELP):
	$(call say,AR)
	@mkdir -p $(@D)
	@rm -f $@
	$(Q)$(AR) rcs $@ $^

FUZZ_MAIN := $(BUILD)/tests/fuzz/replay.o

# More objects of a test, such as those of a program: EXTRA_<test> := api/cli/opt.c
EXTRA_test_cli_opt := api/cli/opt.c
EXTRA_test_cli_json := api/cli/json.c api/cli/out.c
EXTRA_test_stats := bench/stats.c
EXTRA_test_svg := bench/svg.c bench/stats.c api/cli/out.c api/cli/json.c
EXTRA_test_jail := api/machine/jail.c
EXTRA_test_serve := api/cli/serve_conn.c api/cli/serve_files.c
EXTRA_fuzz_serve := api/cli/serve_conn.c api/cli/serve_files.c
# The daemon without its main().
DAEMON_PARTS := $(filter-out api/daemon/main.c,$(wildcard api/daemon/*.c))
EXTRA_test_daemon_params := $(DAEMON_PARTS)
EXTRA_test_daemon_tables := $(DAEMON_PARTS)
EXTRA_test_daemon_store := $(DAEMON_PARTS)
EXTRA_test_daemon_flow := $(DAEMON_PARTS)
EXTRA_test_daemon_conn := $(DAEMON_PARTS)
EXTRA_test_daemon_parents := $(DAEMON_PARTS)
EXTRA_test_daemon_feed := $(DAEMON_PARTS)
EXTRA_test_daemon_unfinished := api/daemon/unfinished.c

.SECONDEXPANSION:
$(UNIT_BIN): %: %.o $$(call obj,$$(EXTRA_$$(@F))) $(UNIT_HELP) $(TEST_LIBS)
$(KVM_BIN): %: %.o $$(call obj,$$(EXTRA_$$(@F))) $(KVM_HELP) $(TEST_LIBS)
$(FUZZ_BIN): %: %.o $(if $(FUZZ),,$(FUZZ_MAIN)) $$(call obj,$$(EXTRA_$$(@F))) $(UNIT_HELP) $(TEST_LIBS)
$(FUZZ_BIN): TEST_LDFLAGS += $(if $(FUZZ),-fsanitize=fuzzer)
$(UNIT_BIN) $(KVM_BIN) $(FUZZ_BIN):
	$(call say,LD)
	$(Q)$(CC) $(TEST_LDFLAGS) $^ $(LDLIBS) -lcmocka -o $@

SAN_BUILD := build-address-undefined
SAN_UNIT = $(patsubst $(BUILD)/%,$(SAN_BUILD)/%,$(UNIT_BIN) $(FUZZ_BIN))
# Of those with a real KVM only the one whose guest looks for such bugs.
HOSTILE := $(BUILD)/tests/kvm/test_hostile
SAN_KVM = $(patsubst $(BUILD)/%,$(SAN_BUILD)/%,$(HOSTILE))

.PHONY: tests unit-tests san-tests check-san fuzz
unit-tests: $(UNIT_BIN) $(FUZZ_BIN)
san-tests: unit-tests $(HOSTILE)
tests: all unit-tests $(KVM_BIN) ## build the tests

check-san: ## unit tests of a sanitizer build: SAN=thread
	@$(MAKE_HERE) unit-tests
	@tests/run.sh $(UNIT_BIN) $(FUZZ_BIN)

fuzz: ## build the fuzzers with libFuzzer, in build-fuzz
	@$(MAKE_HERE) CC=clang SAN=address,undefined FUZZ=1 BUILD=build-fuzz fuzzers
.PHONY: fuzzers
fuzzers: $(FUZZ_BIN)
	@printf 'run: %s tests/fuzz/corpus/NAME\n' $(FUZZ_BIN)
