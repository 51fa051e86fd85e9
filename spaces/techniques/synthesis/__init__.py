"""Images made from the base model alone, for recipes that must do without data.

Design. Everything that looks at images (calibration, sensitivity, repair, conversion of attention, importance,
distillation) takes them from its :class:`~sousvit.spaces.context.Context` and does not know where they come from:

* labelled data: as the user gave them;
* unlabelled data (``labels: false``): the same images, the base's own prediction in the place of each label;
* ``data: none``: synthesised. The run's default set is made once; a step ``synthesize`` at the head of a recipe gives
  that recipe images made otherwise, so method, number, steps and weights are searched like any other parameter.

:mod:`sousvit.spaces.images` opens all three as :class:`~sousvit.data.Splits`. Labels of synthesised images are the
base's prediction on the finished pixels, never the class that was aimed at. Trials share sets through the run's cache,
where they are stored by base, parameters and seed; the teacher's predictions on them are stored like those on real
images. Images for judging are drawn with a seed of their own and seen by no recipe.

Reading order: config.py (the parameters), scenes.py (random images), select.py (the base chooses among them), priors.py
(what else can be asked of an image), inversion.py (images optimised one by one), generator.py (a network that makes
them), synthesiser.py (makes a set once, stores it and hands it to recipes).
"""
