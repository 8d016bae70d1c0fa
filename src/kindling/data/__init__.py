"""DataModules for images, tables and masks: split, order, preprocessing, augmentation, loaders."""
