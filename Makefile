# Two commands do everything on a fresh machine: `make demo` and `make test`.
SIBLINGS := cluster configs data_prep kernels
VIEW := build/view/histodiff

.PHONY: view
view:   # the installed shape of the package, as symlinks, for tools that resolve imports statically
	@rm -rf build/view && mkdir -p $(addprefix $(VIEW)/,$(SIBLINGS))
	@ln -s $(CURDIR)/histodiff/* $(VIEW)/
	@for s in $(SIBLINGS); do ln -s $(CURDIR)/$$s/* $(VIEW)/$$s/; touch $(VIEW)/$$s/__init__.py; done
