# One stamp per source file, so that a second "make lint" looks only at what
# changed: make -f .ci/lint.mk tidy cppcheck
BUILD := build
CC := clang
SAN :=
include .ci/flags.mk

OUT := $(BUILD)/lint
SRC := $(shell find core uffd snapshot api bench tests -name '*.c' 2>/dev/null \
	| grep -v '^core/guest/[^/]*$$')
TIDY := $(SRC:%=$(OUT)/%.tidy)
CHECK := $(SRC:%=$(OUT)/%.cppcheck)

.PHONY: tidy cppcheck
tidy: $(TIDY)
cppcheck: $(CHECK)

$(TIDY): $(OUT)/%.tidy: % .clang-tidy tests/.clang-tidy
	@mkdir -p $(@D)
	@clang-tidy --quiet $< -- $(CPPFLAGS) -std=gnu17 2>$@.err >$@.out || \
		{ cat $@.out; exit 1; }
	@clang $(CPPFLAGS) -std=gnu17 -MM -MP -MT $@ -MF $@.d $<
	@touch $@

$(CHECK): $(OUT)/%.cppcheck: % .ci/cppcheck.txt
	@mkdir -p $(@D)
	@cppcheck --quiet --error-exitcode=1 --std=c11 --language=c -I. \
		--enable=warning,style,performance,portability --inline-suppr \
		--suppressions-list=.ci/cppcheck.txt $<
	@touch $@

-include $(TIDY:=.d)
